import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import '../../../src/platform/node.js';
import type { Reward, RewardSample } from '../../../src/rewards/reward.js';
import { NativeEngine } from '../../../src/rollout/native-engine.js';
import type { Device } from '../../../src/tensor.js';
import { contrastSchema } from '../../../src/trainer/config.js';
import { selectCompletions, statisticsRewards, withoutThinkingRoom } from '../../../src/trainer/contrast.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../../src/trainer/grpo-trainer.js';
import type { Rollout } from '../../../src/trainer/rollout.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

describe('withoutThinkingRoom', () => {
  it.each(['Q: ', 'Q: <think>', 'Q: <think>\n', 'Q: <think>\n\n'])('%j gets an empty think block', (prompt) => {
    expect(withoutThinkingRoom(prompt)).toBe('Q: <think>\n\n</think>\n');
  });
});

/** Two thinking completions and two that do not think, of one prompt. */
const group = { thinking: [0, 1], direct: [2, 3] };
function select(
  scores: (number | null)[],
  { met = [], reference, ...options }: { met?: (number | null)[]; reference?: number; released?: boolean } = {},
) {
  const config = contrastSchema.parse({ score: 'answer', met: 'met', ...options });
  const totals = Float64Array.from(scores, (score) => score ?? Number.NaN);
  const records = scores.map(() => ({ prompt: '', reference_met: reference }));
  const columns = { answer: scores, met: scores.map((_, i) => met[i] ?? null) };
  return selectCompletions([group], { totals, scores: columns, failures: [] }, records, config);
}

describe('selectCompletions', () => {
  it('leaves the completions without thinking out, and keeps a group that is better', () => {
    expect(select([1, 0.5, 0.2, 0.2])).toEqual([null, null, 'direct', 'direct']);
  });

  it('leaves a group out whose best thinking completion is below the worst without thinking', () => {
    expect(select([0.1, 0.3, 0.5, 2])).toEqual(['group', 'group', 'direct', 'direct']);
    expect(select([0.1, 0.5, 0.5, 2]).slice(0, 2)).toEqual([null, null]);
  });

  it('also when all thinking completions are equally bad, which the released code kept', () => {
    expect(select([0.3, 0.3, 0.5, 2]).slice(0, 2)).toEqual(['group', 'group']);
    expect(select([0.3, 0.3, 0.5, 2], { released: true }).slice(0, 2)).toEqual([null, null]);
  });

  it('leaves out what met less than the reference reply; ties and malformed ones stay', () => {
    const met = [2, 3, 0, 0];
    expect(select([1, 1, 0, 0], { met, reference: 3 }).slice(0, 2)).toEqual(['reference', null]);
    expect(select([1, 1, 0, 0], { met, reference: 2 }).slice(0, 2)).toEqual([null, null]);
    expect(select([1, 1, 0, 0], { met: [null, 3], reference: 3 }).slice(0, 2)).toEqual([null, null]);
    expect(select([1, 1, 0, 0], { met }).slice(0, 2)).toEqual([null, null]);
  });

  it('does not compare what could not be scored', () => {
    expect(select([Number.NaN, 0.3, Number.NaN, 2]).slice(0, 2)).toEqual(['group', 'group']);
    expect(select([Number.NaN, Number.NaN, 1, 1]).slice(0, 2)).toEqual([null, null]);
  });
});

it('keeps the completions without thinking out of the statistics, unless told otherwise', () => {
  const totals = Float64Array.of(1, 2, 3, 4);
  const rewards = (options: object) => [...statisticsRewards(totals, [group], contrastSchema.parse(options))];
  expect(rewards({})).toEqual([1, 2, Number.NaN, Number.NaN]);
  expect(rewards({ statistics: 'all' })).toEqual([1, 2, 3, 4]);
  expect(rewards({ released: true })).toEqual([1, 2, 3, 4]);
});

const letters: Reward = {
  name: 'letters',
  score: (batch) => batch.map(({ completion }) => (completion.match(/[a-z]/g) ?? []).length),
};
const run = {
  rewards: [letters],
  numGenerations: 4,
  perDeviceTrainBatchSize: 8,
  maxCompletionLength: 4,
  maxSteps: 1,
  learningRate: 1e-2,
  lrSchedulerType: 'constant',
  shuffleDataset: false,
} satisfies Partial<GRPOTrainerOptions>;

async function trainOnce(options: Partial<GRPOTrainerOptions>) {
  const policy = tinyPolicy({ device, seed: 1 });
  const native = new NativeEngine(policy);
  const asked: string[] = [];
  const engine = {
    generate: (prompts: readonly Int32Array[], settings: Parameters<NativeEngine['generate']>[1]) => {
      asked.push(...prompts.map((ids) => policy.tokenizer.decode(ids)));
      return native.generate(prompts, settings);
    },
  };
  try {
    await using trainer = await GRPOTrainer.create({ policy, engine, ...run, ...options });
    return { asked, report: (await trainer.train()).report! };
  } finally {
    policy.dispose();
  }
}

describe('GRPOTrainer with contrast', () => {
  const dataset = [{ prompt: 'a<think>\n' }, { prompt: 'b<think>\n', contrast: false }];

  it('samples the share of a prompt without thinking, except where the row does not want it', async () => {
    const { asked, report } = await trainOnce({ dataset, contrast: { share: 0.5 } });
    const direct = 'a<think>\n\n</think>\n';
    const other = 'b<think>\n';
    expect(asked).toEqual(['a<think>\n', 'a<think>\n', direct, direct, other, other, other, other]);
    expect(report.completions.map(({ prompt }) => prompt)).toEqual(asked);
    expect(report.completions.slice(2, 4).every(({ advantage }) => advantage === 0)).toBe(true);
    const scores = report.completions.map(({ reward }) => reward);
    expect(report.metrics.reward).toBeCloseTo([0, 1, 4, 5, 6, 7].reduce((sum, i) => sum + scores[i]!, 0) / 6, 9);
    expect(report.metrics['contrast/direct_score']).toBeCloseTo((scores[2]! + scores[3]!) / 2, 9);
    expect(report.metrics.frac_reward_unscorable).toBe(0);
  });

  it('teaches nothing from a group that is left out', async () => {
    const better: Reward = {
      name: 'letters',
      score: (batch: readonly RewardSample[]) =>
        batch.map(({ prompt }, i) => (prompt.endsWith('</think>\n') ? 100 : i)),
    };
    const options = { dataset: dataset.slice(0, 1), rewards: [better], perDeviceTrainBatchSize: 4, beta: 0.1 };
    const masked = await trainOnce({ ...options, contrast: { share: 0.5 } });
    expect(masked.report.gradNorm).toBe(0);
    expect(masked.report.metrics).toMatchObject({ 'contrast/kept': 0, 'contrast/worse_group': 1 });
    expect((await trainOnce({ ...options, contrast: { share: 0.5, score: 'letters' } })).report.gradNorm).toBe(0);
    expect(
      (await trainOnce({ ...options, numGenerations: 2, perDeviceTrainBatchSize: 2 })).report.gradNorm,
    ).toBeGreaterThan(0);
  });

  it('refuses shares and rewards that do not fit', async () => {
    await expect(trainOnce({ dataset, contrast: { share: 0.3 } })).rejects.toThrow(/contrast.share/);
    await expect(trainOnce({ dataset, contrast: { share: 0.75 } })).rejects.toThrow(/contrast.share/);
    await expect(trainOnce({ dataset, contrast: { score: 'answer' } })).rejects.toThrow(/letters.*contrast\.score/);
  });
});

describe('a rollout that its mask takes out', () => {
  const rollout = (seed: number, advantage: number): Rollout => ({
    group: 0,
    promptIds: Int32Array.of(9, seed),
    completionIds: Int32Array.of(10 + seed, 11, 12),
    refLogProbs: Float32Array.of(-1, -1, -1),
    advantage,
  });
  const out = (given: Rollout): Rollout => ({ ...given, mask: [0, 0, 0] });

  it.each(['grpo', 'bnpo', 'dapo', 'dr_grpo'] as const)('has neither loss nor KL with %s', async (lossType) => {
    const update = async (rollouts: Rollout[]) => {
      const policy = tinyPolicy({ device, seed: 1 });
      try {
        await using trainer = await GRPOTrainer.create({ ...run, policy, rewards: undefined, lossType, beta: 0.5 });
        const { loss, metrics } = await trainer.step(rollouts);
        return { loss, kl: metrics.kl, weights: await policy.parameters.flat.readBytes() };
      } finally {
        policy.dispose();
      }
    };
    const kept = [rollout(1, 1), rollout(2, -0.5)];
    const without = await update(kept);
    expect(await update([kept[0]!, out(rollout(3, 7)), kept[1]!])).toEqual(without);
    // A log-prob that is not finite cannot reach the others: it is never multiplied.
    const hostile = { ...rollout(4, 1), refLogProbs: Float32Array.of(Number.NaN, Number.NEGATIVE_INFINITY, -1) };
    expect(await update([...kept, out(hostile)])).toEqual(without);
  });
});

it('makes a group of each row, also of rows with the same prompt', async () => {
  let call = 0;
  const reward: Reward = { name: 'position', score: (batch) => batch.map(() => call++) };
  const { report } = await trainOnce({ dataset: [{ prompt: 'a' }, { prompt: 'a' }], rewards: [reward] });
  const advantages = report.completions.map(({ advantage }) => advantage!);
  // Rewards 0 to 3 and 4 to 7: as one group, the first four would all be below the mean.
  advantages.slice(0, 4).forEach((advantage, i) => {
    expect(advantage).toBeCloseTo(advantages[i + 4]!, 5);
  });
  expect(advantages[3]).toBeGreaterThan(1);
});

it('goes on from a checkpoint between two updates of a generation with the same bits', async () => {
  const outputDir = mkdtempSync(join(tmpdir(), 'contrast-'));
  // Of the four completions of a prompt the two without thinking are left out, with their places in the buffer.
  const options = {
    dataset: [{ prompt: 'a<think>\n' }, { prompt: 'b<think>\n' }, { prompt: 'c<think>\n' }],
    contrast: { share: 0.5 },
    perDeviceTrainBatchSize: 4,
    stepsPerGeneration: 2,
    maxSteps: 6,
  };
  const finish = async (changes: Partial<GRPOTrainerOptions>, from?: string) => {
    const policy = tinyPolicy({ device, seed: 1 });
    try {
      await using trainer = await GRPOTrainer.create({ policy, ...run, ...options, ...changes });
      if (from) await trainer.resume(from);
      await trainer.train();
      return await policy.parameters.flat.readBytes();
    } finally {
      policy.dispose();
    }
  };
  try {
    const whole = await finish({ outputDir, saveSteps: 3 });
    expect(await finish({}, join(outputDir, 'checkpoint-3'))).toEqual(whole);
  } finally {
    rmSync(outputDir, { recursive: true });
  }
});
