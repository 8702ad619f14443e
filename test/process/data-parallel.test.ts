import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import type { CausalLM, CreateOptions } from '../../src/models/causal-lm.js';
import '../../src/platform/node.js';
import type { RewardSample } from '../../src/rewards/reward.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../src/trainer/grpo-trainer.js';
import { SFTTrainer, type SFTTrainerOptions } from '../../src/trainer/sft-trainer.js';
import type { StepReport } from '../../src/trainer/trainer.js';
import { inRanks } from '../in-ranks.js';
import { tinyPolicy } from '../tiny-model.js';

vi.setConfig({ testTimeout: 120_000 });
const folder = mkdtempSync(join(tmpdir(), 'data-parallel-'));
afterAll(() => rmSync(folder, { recursive: true }));

const dataset = Array.from({ length: 12 }, (_, i) => ({ prompt: `${'1+'.repeat(1 + (i % 4))}${i}=` }));

/** Completions differ in length, since a full stop ends one; a share of the rewards cannot be computed. */
const rewards = [
  {
    name: 'digits',
    score: (batch: readonly RewardSample[]) =>
      batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length / (completion.length + 1)),
  },
  {
    name: 'short',
    score: (batch: readonly RewardSample[]) =>
      batch.map(({ completion }) => (completion.startsWith('z') ? Number.NaN : 1 - completion.length / 24)),
  },
];

interface Outcome {
  losses: number[];
  gradNorms: number[];
  metrics: Record<string, number>[];
  completions: string[];
  weights: Float32Array;
  lengths: Set<number>;
  /** What the trainer allocated when it was made: gradients, and the state of the optimiser. */
  heldBytes: number;
}

/** What differs from run to run, or says how fast it was. */
const timings = ['step_seconds', 'tokens_per_second'];

async function outcomeOf(reports: StepReport[], policy: CausalLM): Promise<Outcome> {
  return {
    losses: reports.map((report) => report.loss),
    gradNorms: reports.map((report) => report.gradNorm),
    metrics: reports.map(({ metrics }) =>
      Object.fromEntries(Object.entries(metrics).filter(([name]) => !timings.includes(name))),
    ),
    completions: reports.flatMap((report) => report.completions.map((one) => one.completion)),
    weights: (await policy.parameters.flat.read()) as Float32Array,
    lengths: new Set(reports.flatMap((report) => report.completions.map((one) => one.completion.length))),
    heldBytes: 0,
  };
}

type Options = Partial<GRPOTrainerOptions> & Pick<CreateOptions, 'dtype' | 'activations'>;

/** The same run on one or several ranks: 16 completions an update, whatever the number of ranks. */
function train(worldSize: number, { dtype = 'f32', activations, ...options }: Options = {}): Promise<Outcome[]> {
  return inRanks(worldSize, async (device, group) => {
    const policy = tinyPolicy({ device, seed: 5 + group.rank, dtype, activations });
    await device.synchronize();
    const before = device.memory().liveBytes;
    const trainer = await GRPOTrainer.create({
      policy,
      dataset,
      rewards,
      numGenerations: 4,
      perDeviceTrainBatchSize: 8 / worldSize,
      gradientAccumulationSteps: 2,
      maxCompletionLength: 24,
      learningRate: 1e-3,
      adamEpsilon: 1e-6,
      maxSteps: 4,
      stop: ['.', '0', 'e'],
      processGroup: worldSize > 1 ? group : undefined,
      ...options,
    });
    await device.synchronize();
    const held = device.memory().liveBytes - before;
    const reports: StepReport[] = [];
    for await (const report of trainer) reports.push(report);
    const outcome = { ...(await outcomeOf(reports, policy)), heldBytes: held };
    await trainer.close();
    policy.dispose();
    expect(device.memory().liveTensors).toBe(0);
    return outcome;
  });
}

function expectClose(got: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-5): void {
  expect(got.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const scale = Math.max(1, Math.abs(expected[i]!));
    worst = Math.max(worst, Math.abs(got[i]! - expected[i]!) / scale);
  }
  expect(worst).toBeLessThanOrEqual(tolerance);
}

function expectSame(ranks: Outcome[], alone: Outcome): void {
  for (const [r, rank] of ranks.entries()) {
    expect(rank.completions).toEqual(alone.completions);
    expectClose(rank.losses, alone.losses);
    expectClose(rank.gradNorms, alone.gradNorms);
    expectClose(rank.weights, alone.weights);
    rank.metrics.forEach((metrics, i) => {
      expect(Object.keys(metrics).toSorted()).toEqual(Object.keys(alone.metrics[i]!).toSorted());
      const names = Object.keys(metrics);
      expectClose(
        names.map((name) => metrics[name]!),
        names.map((name) => alone.metrics[i]![name]!),
      );
    });
    // The ranks hold the same bits, not only about the same numbers.
    if (r > 0) expect(rank.weights).toEqual(ranks[0]!.weights);
  }
}

const demonstrations = dataset.map(({ prompt }, i) => ({ prompt, completion: 'yes'.repeat(1 + (i % 3)) }));

describe('GRPO on several ranks trains as on one', () => {
  const cases: [string, Options][] = [
    ['with the defaults', {}],
    ['with a reference and several iterations', { beta: 0.1, numIterations: 2, stepsPerGeneration: 2 }],
    ['with several updates a generation', { stepsPerGeneration: 4, scaleRewards: 'batch' }],
    ['normalised by the tokens of a micro-batch', { lossType: 'bnpo', baseline: 'leave-one-out' }],
    ['normalised by sequences, without truncated ones', { lossType: 'grpo', maskTruncatedCompletions: true }],
    ['with rollout correction and entropy', { rolloutCorrection: 'sequence-truncate', entropyCoefficient: 0.01 }],
    ['with demonstrations', { sftCoefficient: 0.5, demonstrations }],
    ['with contrast', { contrast: { share: 0.5, score: 'short', statistics: 'thinking' } }],
    ['with activations computed again', { gradientCheckpointing: true, lossType: 'dr_grpo' }],
  ];
  it.each(cases)('%s', async (_, options) => {
    const [alone] = await train(1, options);
    expect(alone!.lengths.size).toBeGreaterThan(3);
    // Four ranks where the plain case is; two show the rest.
    for (const worldSize of Object.keys(options).length === 0 ? [2, 4] : [2]) {
      expectSame(await train(worldSize, options), alone!);
    }
  });

  const highEntropy: [number, Options][] = [
    [0.2, {}],
    [0.5, { entropyCoefficient: 0.05, beta: 0.1, lossType: 'grpo' }],
    [0.8, { gradientCheckpointing: true, maskTruncatedCompletions: true, lossType: 'bnpo' }],
  ];
  it.each(highEntropy)('on the %f of tokens of highest entropy in an update', async (topEntropyQuantile, rest) => {
    const options = { topEntropyQuantile, ...rest };
    const [alone] = await train(1, options);
    expect(alone!.lengths.size).toBeGreaterThan(3);
    for (const { high_entropy_kept: kept } of alone!.metrics) {
      expect(Math.abs(kept! - topEntropyQuantile)).toBeLessThan(0.01);
    }
    for (const worldSize of [2, 4]) expectSame(await train(worldSize, options), alone!);
    expectSame(await train(4, { ...options, zeroStage: 2 }), alone!);
    // The tolerance notices a threshold that is off by a few tokens.
    const [off] = await train(1, { ...options, topEntropyQuantile: topEntropyQuantile - 0.02 });
    expect(Math.max(...off!.weights.map((x, i) => Math.abs(x - alone!.weights[i]!)))).toBeGreaterThan(1e-4);
  });

  it('with more ranks than sequences in an update', async () => {
    const options = { gradientAccumulationSteps: 1, numGenerations: 2, perDeviceTrainBatchSize: 1, maxSteps: 2 };
    const masked = { ...options, maskTruncatedCompletions: true, contrast: { share: 0.25 }, numGenerations: 4 };
    for (const topEntropyQuantile of [1, 0.5]) {
      const [alone] = await train(1, { ...masked, topEntropyQuantile, perDeviceTrainBatchSize: 4 });
      expectSame(await train(4, { ...masked, topEntropyQuantile }), alone!);
    }
  });

  it('evaluates as on one', async () => {
    const evalDataset = dataset.slice(0, 5);
    const evaluation = { evalDataset, evalSteps: 2, perDeviceEvalBatchSize: 2, evalTemperature: 1 } as const;
    const [alone] = await train(1, evaluation);
    expect(alone!.metrics[1]).toHaveProperty('eval/reward');
    for (const worldSize of [2, 4]) expectSame(await train(worldSize, evaluation), alone!);
  });
});

describe('zeroStage', () => {
  it.each(['f32', 'bf16'] as const)('1 and 2 give the bits of 0, and keep less on each rank, in %s', async (dtype) => {
    for (const worldSize of dtype === 'f32' ? [2, 3] : [2]) {
      // Every rank gets one group, as one micro-batch: stage 2 adds up several in another order.
      const even = Array.from({ length: 12 }, (_, i) => ({ prompt: `${i % 10}+${i < 10 ? 1 : 2}=` }));
      const one = { dataset: even, maxCompletionLength: 1, perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 1 };
      const options = { dtype, weightDecay: 0.1, ...one } as const;
      const [whole, ...sharded] = await Promise.all(
        ([0, 1, 2] as const).map((zeroStage) => train(worldSize, { ...options, zeroStage })),
      );
      for (const [i, ranks] of sharded.entries()) {
        for (const [r, rank] of ranks.entries()) {
          expect(rank.weights).toEqual(whole![r]!.weights);
          expect(rank.losses).toEqual(whole![r]!.losses);
          expect(rank.gradNorms).toEqual(whole![r]!.gradNorms);
          // Two moments, and the master weights of a model in bf16, of four bytes a weight: a part of them a rank.
          const state = (dtype === 'f32' ? 8 : 12) * rank.weights.length;
          // With stage 2 as much of the gradients, and of what stands behind them to be cut into parts.
          const gradients = i === 1 ? 4 * rank.weights.length : 0;
          const padding = i === 1 ? 4 * 8 * 2048 : 0;
          const saved = whole![r]!.heldBytes - rank.heldBytes - padding;
          expect(Math.abs(saved - (state + gradients) * (1 - 1 / worldSize))).toBeLessThan(0.02 * state);
        }
      }
    }
  });

  it('1 and 2 give the bits of 0 with activations in bf16, which two ranks round as one does', async () => {
    const formats = { dtype: 'bf16', activations: 'bf16' } as const;
    const [alone] = await train(1, formats);
    const [whole, ...sharded] = await Promise.all(
      ([0, 1, 2] as const).map((zeroStage) => train(2, { ...formats, gradientAccumulationSteps: 1, zeroStage })),
    );
    for (const ranks of sharded) {
      for (const [r, rank] of ranks.entries()) expect(rank.weights).toEqual(whole![r]!.weights);
    }
    const ranks = await train(2, formats);
    expect(ranks[1]!.weights).toEqual(ranks[0]!.weights);
    // Completions of a prompt may be on both ranks: the gradient of the prompt is then the sum of two that were rounded.
    expect(ranks[0]!.completions.slice(0, 16)).toEqual(alone!.completions.slice(0, 16));
    expect(Math.abs(ranks[0]!.losses[0]! - alone!.losses[0]!)).toBeLessThan(1e-6);
    expect(Math.abs(ranks[0]!.gradNorms[0]! / alone!.gradNorms[0]! - 1)).toBeLessThan(1e-2);
    const [exact] = await train(1, { dtype: 'bf16' });
    expect(exact!.gradNorms[0]).not.toBe(alone!.gradNorms[0]);
  });

  it('2 adds up micro-batches of ranks that have unequally many, demonstrations too, to the sums of 0', async () => {
    const options = { sftCoefficient: 0.5, demonstrations, sftBatchSize: 3, perDeviceTrainBatchSize: 2 };
    const more = { ...options, gradientAccumulationSteps: 4 };
    for (const worldSize of [2, 3]) {
      const [whole] = await train(worldSize, more);
      expectSame(await train(worldSize, { ...more, zeroStage: 2 }), whole!);
    }
  });

  it.each([1, 3])('2 never has the whole gradients on a rank, with %i micro-batches', async (accumulation) => {
    const shape = { hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 12 };
    const peaks = (zeroStage: 1 | 2) =>
      inRanks(2, async (device, group) => {
        const policy = tinyPolicy({ device, seed: 1 }, shape);
        const weights = policy.parameters.count;
        const trainer = await GRPOTrainer.create({
          ...{ policy, processGroup: group, zeroStage, gradientCheckpointing: true, maxSteps: 1 },
          ...{ perDeviceTrainBatchSize: 1, gradientAccumulationSteps: accumulation, maxCompletionLength: 4 },
          ...{ numGenerations: 2 * accumulation },
        });
        const rollouts = Array.from({ length: accumulation }, (_, i) => ({
          ...{
            group: 0,
            promptIds: Int32Array.of(3),
            completionIds: Int32Array.of(5, 6, 7, 8),
            reward: i + group.rank,
          },
        }));
        await trainer.step(rollouts);
        const { peakBytes } = device.memory();
        await trainer.close();
        policy.dispose();
        expect(device.memory().liveTensors).toBe(0);
        return { peakBytes, weights };
      });
    const [stage1, stage2] = [await peaks(1), await peaks(2)];
    for (const [r, { peakBytes, weights }] of stage2.entries()) {
      // Half of the gradients, and two layers of twelve.
      const dropped = stage1[r]!.peakBytes - peakBytes;
      expect(dropped).toBeGreaterThan(4 * weights * (1 - 1 / 2 - 2 / 12 - 0.03));
      expect(dropped).toBeLessThan(4 * weights * (1 - 1 / 2) + 4 * 8 * 2048);
    }
  });
});

describe('checkpoints', () => {
  /** Runs to an update, saves, and goes on on other ranks, up to the sixth. */
  async function interrupted(from: number, to: number, options: Options): Promise<Outcome[]> {
    const path = join(folder, `checkpoint-${from}-${to}-${options.zeroStage ?? 0}`);
    const run = (worldSize: number, stop: number | null) =>
      inRanks(worldSize, async (device, group) => {
        const policy = tinyPolicy({ device, seed: 5 });
        const trainer = await GRPOTrainer.create({
          ...{ policy, dataset, rewards, numGenerations: 4, gradientAccumulationSteps: 1, maxCompletionLength: 12 },
          ...{
            learningRate: 1e-3,
            adamEpsilon: 1e-6,
            maxSteps: 6,
            perDeviceTrainBatchSize: 4 / worldSize,
            stepsPerGeneration: 4,
          },
          ...{ processGroup: worldSize > 1 ? group : undefined, ...options },
        });
        if (stop === null) await trainer.resume(path);
        const reports: StepReport[] = [];
        for await (const report of trainer) {
          reports.push(report);
          if (report.step === stop) break;
        }
        if (stop !== null) await trainer.save(path);
        const outcome = await outcomeOf(reports, policy);
        await trainer.close();
        policy.dispose();
        return outcome;
      });
    await run(from, 3);
    return run(to, null);
  }

  it.each([0, 1, 2] as const)('go on with the same bits on the same ranks, with zeroStage %i', async (zeroStage) => {
    const options = { zeroStage, perDeviceTrainBatchSize: 2, stepsPerGeneration: 4, gradientAccumulationSteps: 1 };
    const unbroken = await train(2, { ...options, maxCompletionLength: 12, stop: [], maxSteps: 6 });
    const resumed = await interrupted(2, 2, { zeroStage });
    for (const [r, rank] of resumed.entries()) {
      expect(rank.weights).toEqual(unbroken[r]!.weights);
      expect(rank.losses).toEqual(unbroken[r]!.losses.slice(3));
    }
  });

  it('go on on more ranks, on fewer and on one, in the middle of a generation', async () => {
    const [unbroken] = await interrupted(1, 1, {});
    for (const [from, to, zeroStage] of [
      [1, 4, 1],
      [4, 2, 2],
      [2, 1, 1],
    ] as const) {
      const resumed = await interrupted(from, to, { zeroStage });
      for (const rank of resumed) {
        expect(rank.completions).toEqual(unbroken!.completions);
        expectClose(rank.losses, unbroken!.losses);
        expectClose(rank.weights, unbroken!.weights);
      }
    }
  });

  it('are refused in the middle of a generation that does not fit the ranks', async () => {
    const error = await interrupted(2, 4, { perDeviceTrainBatchSize: 2 }).catch((thrown: Error) => thrown);
    expect((error as Error).message).toMatch(/in the middle of a generation of 16 completions, 4 a micro-batch/);
  });
});

describe('the ranks', () => {
  const common = { dataset, rewards, numGenerations: 4, perDeviceTrainBatchSize: 4, maxCompletionLength: 8 };
  const create = (worldSize: number, optionsOf: (rank: number) => Options) =>
    inRanks(worldSize, async (device, group) => {
      const { dtype, activations, ...options } = optionsOf(group.rank);
      const policy = tinyPolicy({ device, seed: 5, dtype, activations });
      return GRPOTrainer.create({ policy, ...common, processGroup: group, ...options }).then(
        (trainer) => trainer.close().then(() => 'made'),
        (error: Error) => error.message,
      );
    });

  it('refuse options that differ', async () => {
    const messages = await create(2, (rank) => ({ learningRate: 1e-3 * (1 + rank) }));
    for (const message of messages) {
      expect(message).toBe('Expected the value of rank 0, 0.001, for learningRate but received "0.002 on rank 1"');
    }
    const formats = await create(2, (rank) => ({ dtype: 'bf16', activations: rank === 0 ? 'bf16' : 'f32' }));
    for (const message of formats) {
      expect(message).toMatch(/^Expected the value of rank 0, "bf16", for activations but received .*f32.* on rank 1/);
    }
  });

  it('may each bring a part of the rollouts, of one group too', async () => {
    const rollouts = Array.from({ length: 6 }, (_, i) => ({
      group: i % 2,
      promptIds: Int32Array.of(1, 2 + (i % 2)),
      completionIds: Int32Array.from({ length: 1 + i }, (_, t) => (3 * t + i) % 40),
      reward: i === 5 ? Number.NaN : i,
    }));
    const run = (worldSize: number) =>
      inRanks(worldSize, async (device, group) => {
        const policy = tinyPolicy({ device, seed: 5 });
        const options = { policy, lrSchedulerType: 'constant', learningRate: 1e-3, processGroup: group } as const;
        const trainer = await GRPOTrainer.create(options);
        // The second of three ranks has none.
        const own = worldSize === 1 ? rollouts : [rollouts.slice(0, 4), [], rollouts.slice(4)][group.rank]!;
        const outcome = await outcomeOf([await trainer.step(own), await trainer.step(own)], policy);
        await trainer.close();
        policy.dispose();
        return outcome;
      });
    const [alone] = await run(1);
    expectSame(await run(3), alone!);
  });

  it('fail together when one of them fails, and name it', async () => {
    const messages = await inRanks(2, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 5 });
      const engine = { generate: () => Promise.reject(new Error(`no completions on rank ${group.rank}`)) };
      const options = { policy, dataset, rewards, numGenerations: 4, perDeviceTrainBatchSize: 4, processGroup: group };
      const trainer = await GRPOTrainer.create({ ...options, ...(group.rank === 1 ? { engine } : {}) });
      const error = await trainer.train().catch((thrown: Error) => thrown);
      await trainer.close();
      return (error as Error).message;
    });
    expect(messages).toEqual(['Rank 1 failed: no completions on rank 1', 'no completions on rank 1']);
  });

  it('stop together after the same update when one of them is asked to', async () => {
    const stopped = await inRanks(3, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 5 });
      const trainer = await GRPOTrainer.create({ policy, ...common, processGroup: group, maxSteps: 10 });
      for await (const { step } of trainer) if (step === 2 && group.rank === 1) trainer.stop();
      await trainer.close();
      return [trainer.globalStep, trainer.stopped];
    });
    expect(stopped).toEqual(Array.from({ length: 3 }, () => [2, true]));
  });
});

describe('rewards that fail on one rank', () => {
  it('cost the completions of that rank, and are told once for all', async () => {
    const outcomes = await inRanks(2, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 5 });
      let calls = 0;
      const fragile = {
        name: 'fragile',
        timeoutMs: 200,
        score: (batch: readonly RewardSample[]): number[] | Promise<number[]> => {
          const call = group.rank === 1 ? calls++ : -1;
          if (call === 0) throw new Error('the server is gone');
          if (call === 1) return [1];
          if (call === 2) return new Promise(() => {});
          return batch.map(({ completion }) => completion.length);
        },
      };
      const common = { policy, dataset, numGenerations: 4, perDeviceTrainBatchSize: 4, maxCompletionLength: 8 };
      const trainer = await GRPOTrainer.create({ ...common, rewards: [fragile], maxSteps: 4, processGroup: group });
      const told: unknown[] = [];
      for await (const { rewardFailures, metrics } of trainer) {
        told.push([rewardFailures.map((failure) => failure.reason), metrics.frac_reward_unscorable]);
      }
      await trainer.close();
      return { told, weights: await policy.parameters.flat.read() };
    });
    const expected = [
      [['threw'], 0.5],
      [['wrong-count'], 0.5],
      [['timeout'], 0.5],
      [[], 0],
    ];
    for (const { told, weights } of outcomes) {
      expect(told).toEqual(expected);
      expect(weights).toEqual(outcomes[0]!.weights);
    }
  });
});

describe('gradients that are not finite', () => {
  /** From the third update on one gradient of one rank is not a number. */
  const run = (worldSize: number, maxSkippedUpdates: number | null) =>
    inRanks(worldSize, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 5 });
      const common = { policy, lrSchedulerType: 'constant', learningRate: 1e-2, maxSkippedUpdates } as const;
      const trainer = await GRPOTrainer.create({ ...common, processGroup: group });
      const rollout = (advantage: number) => ({
        ...{ group: 1, promptIds: Int32Array.of(1, 2), completionIds: Int32Array.of(3, 4), advantage },
      });
      const skipped: (number | undefined)[] = [];
      let message = '';
      let weights = '';
      for (let step = 1; step <= 6 && message === ''; step++) {
        if (step >= 3 && group.rank === worldSize - 1) {
          const gradient = policy.parameters.gradients!.view([1], 7);
          gradient.write([Number.NaN]);
          gradient.dispose();
        }
        await trainer.step([rollout(1), rollout(-0.5)]).then(
          ({ metrics }) => skipped.push(metrics.skipped_updates),
          (error: Error & { code?: string }) => {
            message = `${error.code}: ${error.message}`;
          },
        );
        if (step === 2) weights = (await policy.parameters.flat.read()).join();
      }
      expect((await policy.parameters.flat.read()).join()).toBe(weights);
      await trainer.close();
      policy.dispose();
      return { skipped, message };
    });

  it.each([1, 2, 3])('are skipped and counted, and too many in a row are an error, on %i ranks', async (worldSize) => {
    for (const { skipped, message } of await run(worldSize, 2)) {
      expect(skipped).toEqual([undefined, undefined, 1, 1]);
      expect(message).toMatch(/^GRPO_NON_FINITE_GRADIENTS: The gradients of 3 updates in a row, the last of them 5,/);
    }
    for (const { skipped } of await run(worldSize, null)) expect(skipped).toEqual([undefined, undefined, 1, 1, 1, 1]);
  });
});

describe('SFT on several ranks', () => {
  it('trains and evaluates as on one', async () => {
    const run = (worldSize: number, options: Partial<SFTTrainerOptions> = {}) =>
      inRanks(worldSize, async (device, group) => {
        const policy = tinyPolicy({ device, seed: 5 + group.rank });
        const trainer = await SFTTrainer.create({
          ...{ policy, dataset: demonstrations, evalDataset: demonstrations.slice(0, 5), evalSteps: 2 },
          ...{
            learningRate: 1e-3,
            adamEpsilon: 1e-6,
            maxSteps: 4,
            perDeviceTrainBatchSize: 8 / worldSize,
            processGroup: group,
          },
          ...options,
        });
        const reports: StepReport[] = [];
        for await (const report of trainer) reports.push(report);
        const outcome = await outcomeOf(reports, policy);
        await trainer.close();
        policy.dispose();
        return outcome;
      });
    const [alone] = await run(1);
    expect(alone!.losses.at(-1)).toBeLessThan(alone!.losses[0]!);
    for (const worldSize of [2, 4]) expectSame(await run(worldSize), alone!);
    expectSame(await run(2, { zeroStage: 2 }), alone!);
  });
});
