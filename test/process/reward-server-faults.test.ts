import { afterEach, describe, expect, it, vi } from 'vitest';
import '../../src/platform/node.js';
import { endpointJudge, type JudgeModel, judgeReward } from '../../src/rewards/judge.js';
import { GRPOTrainer } from '../../src/trainer/grpo-trainer.js';
import type { StepReport } from '../../src/trainer/trainer.js';
import { type Answer, type FakeServer, fakeServer } from '../fake-server.js';
import { inRanks } from '../in-ranks.js';
import { tinyPolicy } from '../tiny-model.js';

vi.setConfig({ testTimeout: 120_000 });
let server: FakeServer | undefined;
afterEach(async () => {
  await server?.close();
  server = undefined;
});

const dataset = Array.from({ length: 8 }, (_, i) => ({ prompt: `${i}+${i}=`, scoring_questions: ['Is it a number?'] }));
/** Says yes to every other question, so that there is something to learn. */
const verdict = (text: string) => ({ choices: [{ message: { content: text.length % 2 === 0 ? 'YES' : 'NO' } }] });
const steps = 4;

/** Trains two ranks on a judge behind `answer`; from update `faultyFrom` on the server does what `fault` says instead. */
async function train(fault: Answer | 'dies', faultyFrom: number) {
  let update = 0;
  server = await fakeServer((request, response) => {
    if (update >= faultyFrom && fault !== 'dies') return fault(request, response);
    return verdict(JSON.stringify(request.body.messages));
  });
  const { url, close } = server;
  let closed: Promise<void> | undefined;
  const outcomes = await inRanks(2, async (device, group) => {
    const policy = tinyPolicy({ device, seed: 2 });
    // Only of the faulty server is a late answer expected: on a busy machine the other one may take long.
    const judgeWithin = (timeoutMs: number) =>
      endpointJudge({ url, model: 'judge', retries: 1, backoffMs: 1, timeoutMs });
    const [patient, hasty] = [judgeWithin(60_000), judgeWithin(300)];
    const judge: JudgeModel = {
      answer: (...question) => (update >= faultyFrom ? hasty : patient).answer(...question),
    };
    const trainer = await GRPOTrainer.create({
      ...{
        policy,
        dataset,
        processGroup: group,
        maxSteps: steps,
        learningRate: 1e-2,
        rewards: [judgeReward({ judge })],
      },
      ...{ numGenerations: 4, perDeviceTrainBatchSize: 4, maxCompletionLength: 8 },
    });
    const reports: StepReport[] = [];
    for await (const report of trainer) {
      reports.push(report);
      // Both ranks have this update behind them before the server changes.
      await group.barrier();
      update = report.step;
      if (fault === 'dies' && update === faultyFrom) {
        closed ??= close();
        await closed;
      }
      await group.barrier();
    }
    const weights = await policy.parameters.flat.read();
    await trainer.close();
    policy.dispose();
    return { reports, weights };
  });
  if (closed) server = undefined;
  return outcomes;
}

const faults: [string, Answer | 'dies'][] = [
  ['does not answer in time', () => undefined],
  ['answers with something else than JSON', (_, response) => void response.end('<html>no</html>')],
  ['answers with JSON of another shape', () => ({ choices: 'none' })],
  ['says that it has failed', (_, response) => void response.writeHead(500).end()],
  ['breaks the connection', (_, response) => void response.destroy()],
  ['dies', 'dies'],
];

describe('a reward server under two ranks', () => {
  it.each(faults)(
    'that %s in the middle of a run leaves samples without a score, and the run goes on',
    async (_, fault) => {
      const faultyFrom = 2;
      const [first, second] = await train(fault, faultyFrom);
      for (const { reports } of [first!, second!]) {
        expect(reports.map(({ step }) => step)).toEqual([1, 2, 3, 4]);
        for (const { step, metrics, rewardFailures, gradNorm } of reports) {
          const faulty = step > faultyFrom;
          // All eight completions of both ranks.
          expect(metrics['rewards/judge/unscorable'] ?? 0).toBe(faulty ? 8 : 0);
          expect(rewardFailures.length > 0).toBe(faulty);
          expect(gradNorm > 0).toBe(!faulty);
        }
      }
      expect(second!.weights).toEqual(first!.weights);
      const losses = ({ reports }: typeof first & {}) => reports.map(({ loss }) => loss);
      expect(losses(second!)).toEqual(losses(first!));
    },
  );
});
