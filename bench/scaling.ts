/**
 * One and two ranks on the CPU: tokens a second of whole GRPO steps, what the ranks send in a step, and how much of the
 * exchange hides behind the backward pass. Each rank computes with one thread, so two ranks have twice the hardware. One
 * rank with the part that a rank of two has shows what of a step does not get shorter with fewer completions; two of
 * those at once, that have nothing to do with each other, what the two cores slow each other.
 *
 * The model is large enough for that: with a tenth of the weights, sampling waits for each token, not for its 16 rows or
 * 32, and all gradients fit into one bucket, which is complete when the backward pass ends.
 *
 *     npm run bench -- scaling [--steps 8]
 *
 * Writes bench/results/scaling-cpu.{json,md}.
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { openProcessGroup } from '../src/distributed/open-process-group.js';
import type { Store } from '../src/distributed/process-group.js';
import { singleProcessGroup } from '../src/distributed/single-process-group.js';
import { CausalLM, GRPOTrainer, openDevice, Tokenizer } from '../src/index.js';
import { today, writeResults } from './common/report.js';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '8' },
    rank: { type: 'string' },
    ranks: { type: 'string', default: '1' },
    stage: { type: 'string', default: '0' },
    completions: { type: 'string', default: '32' },
  },
});
const steps = Number(flags.steps);
const warmup = 2;
/** Of a step, over all ranks. */
const completions = Number(flags.completions);
const shape = {
  hiddenSize: 512,
  intermediateSize: 1408,
  numHiddenLayers: 4,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 256,
};

interface Measured {
  tokensPerSecond: number;
  stepSeconds: number;
  bytesSent: number;
  communicationSeconds: number;
  waitSeconds: number;
}

interface Row extends Measured {
  ranks: number;
  /** Whether each is a run of its own. */
  apart: boolean;
  completions: number;
  zeroStage: number;
  /** Tokens a second of a rank, as a share of those of a single rank. */
  efficiency: number;
  /** Share of the communication beside which the device computed; null without any. */
  overlap: number | null;
}

if (flags.rank === undefined) {
  const rows: Row[] = [];
  for (const [ranks, zeroStage, count, apart] of [
    [1, 0, completions, false],
    [1, 0, completions / 2, false],
    [2, 0, completions, true],
    [2, 0, completions, false],
    [2, 1, completions, false],
    [2, 2, completions, false],
  ] as const) {
    const measured = apart ? await runApart(ranks, count) : await runRanks(ranks, zeroStage, count);
    const alone = rows[0]?.tokensPerSecond ?? measured.tokensPerSecond;
    const { communicationSeconds: busy, waitSeconds } = measured;
    const overlap = busy > 0 ? Math.max(0, 1 - waitSeconds / busy) : null;
    rows.push({
      ranks,
      apart,
      zeroStage,
      completions: count,
      ...measured,
      efficiency: measured.tokensPerSecond / ranks / alone,
      overlap,
    });
  }
  const report = {
    date: today(),
    cpu: cpus()[0]!.model,
    cores: cpus().length,
    steps,
    rows,
  };
  writeResults('bench/results/scaling-cpu', report, markdown(report));
} else {
  await measure(Number(flags.rank), Number(flags.ranks), Number(flags.stage) as 0 | 1 | 2);
}

/** Means over the steps after the warm-up, of rank 0. */
async function measure(rank: number, worldSize: number, zeroStage: 0 | 1 | 2): Promise<void> {
  const device = await openDevice('cpu', { threads: 1 });
  const policy = CausalLM.create(shape, Tokenizer.fromCharacters('0123456789+=abcdefghijklmnopqrstuvwxyz. '), {
    device,
    seed: 1,
  });
  const where = { device, rank, worldSize, localRank: rank, store: parentStore(), interface: '127.0.0.1' };
  const group = worldSize === 1 ? singleProcessGroup(device) : await openProcessGroup(where);
  const trainer = await GRPOTrainer.create({
    policy,
    dataset: Array.from({ length: 64 }, (_, i) => ({ prompt: `${i}+${i}=`.repeat(4) })),
    rewards: [(batch) => batch.map(({ completion }) => completion.replace(/[^0-9]/g, '').length)],
    ...{ numGenerations: 8, perDeviceTrainBatchSize: completions / worldSize, maxCompletionLength: 48 },
    ...{ stop: ['e', '0'], maxSteps: steps + warmup, processGroup: group, zeroStage },
  });
  let tokens = 0;
  let start = performance.now();
  let before = group.statistics();
  for await (const { step, metrics } of trainer) {
    if (step > warmup) tokens += metrics['completions/mean_length']! * completions;
    if (step !== warmup) continue;
    before = group.statistics();
    start = performance.now();
  }
  const seconds = (performance.now() - start) / 1000;
  const after = group.statistics();
  await trainer.close();
  await group.close();
  const a = (name: 'bytesSent' | 'communicationSeconds' | 'waitSeconds') => (after[name] - before[name]) / steps;
  const result: Measured = {
    tokensPerSecond: tokens / seconds,
    stepSeconds: seconds / steps,
    bytesSent: a('bytesSent'),
    communicationSeconds: a('communicationSeconds'),
    waitSeconds: a('waitSeconds'),
  };
  process.send!({ result }, () => process.disconnect());
  device.close();
}

/** The parent keeps what the ranks leave for each other. */
function parentStore(): Store {
  return {
    async set(key, value) {
      process.send!({ set: key, value: Buffer.from(value).toString('base64') });
    },
    get: (key) =>
      new Promise((resolve) => {
        const listen = (message: { key: string; value: string }) => {
          if (message.key !== key) return;
          process.off('message', listen);
          resolve(Buffer.from(message.value, 'base64'));
        };
        process.on('message', listen);
        process.send!({ get: key });
      }),
  };
}

/** As many runs of one rank at once, which share the completions. */
async function runApart(runs: number, count: number): Promise<Measured> {
  const each = await Promise.all(Array.from({ length: runs }, () => runRanks(1, 0, count / runs)));
  const tokensPerSecond = each.reduce((sum, run) => sum + run.tokensPerSecond, 0);
  return { ...each[0]!, tokensPerSecond, stepSeconds: Math.max(...each.map((run) => run.stepSeconds)) };
}

async function runRanks(ranks: number, zeroStage: number, count: number): Promise<Measured> {
  const known = new Map<string, string>();
  const waiting: { key: string; send: (value: string) => void }[] = [];
  let result: Measured | undefined;
  const children = Array.from({ length: ranks }, (_, rank) => {
    const args = ['--rank', `${rank}`, '--ranks', `${ranks}`, '--stage', `${zeroStage}`, '--steps', `${steps}`];
    const child = fork(fileURLToPath(import.meta.url), [...args, '--completions', `${count}`]);
    child.on('message', (message: { set?: string; value?: string; get?: string; result?: Measured }) => {
      if (message.set) known.set(message.set, message.value!);
      if (message.get) waiting.push({ key: message.get, send: (value) => child.send({ key: message.get, value }) });
      for (const entry of waiting.splice(0)) {
        const value = known.get(entry.key);
        if (value === undefined) waiting.push(entry);
        else entry.send(value);
      }
      if (message.result && rank === 0) result = message.result;
    });
    return once(child, 'exit');
  });
  await Promise.all(children);
  if (!result) throw new Error(`The run on ${ranks} ranks gave no result`);
  return result;
}

function markdown({ date, cpu, cores, rows }: { date: string; cpu: string; cores: number; rows: Row[] }): string {
  const percent = (share: number | null) => (share === null ? '' : `${Math.round(100 * share)} %`);
  const lines = rows.map(
    ({ ranks, apart, zeroStage, completions: count, tokensPerSecond, stepSeconds, efficiency, bytesSent, overlap }) =>
      `| ${apart ? `${ranks} x 1` : ranks} | ${zeroStage} | ${count} | ${Math.round(tokensPerSecond)} | ${(1000 * stepSeconds).toFixed(0)} | ` +
      `${percent(efficiency)} | ${(bytesSent / 1e6).toFixed(2)} | ${percent(overlap)} |`,
  );
  return `# GRPO steps on one and two ranks

${cpu}, ${cores} cores, one thread a rank; ${date}. \`npm run bench -- scaling\`. A step is rollout, rewards
and update, of a model of 512 x 4 layers.
Efficiency: tokens a second of a rank, as a share of those of one rank alone. Bytes: what rank 0 sends in a step, values
between hosts not counted. Overlap: share of the time of the exchange during which the device did not wait for it.

| Ranks | zeroStage | Completions | Tokens/s | Step, ms | Efficiency | MB sent a step | Overlap |
|---|---|---|---|---|---|---|---|
${lines.join('\n')}
`;
}
