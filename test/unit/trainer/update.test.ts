import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import type { GRPOOptions } from '../../../src/trainer/config.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import type { Rollout } from '../../../src/trainer/rollout.js';
import type { StepReport } from '../../../src/trainer/trainer.js';

const fixtures = new URL('../../fixtures/', import.meta.url).pathname;

/** Written by scripts/fixtures/trainer_update.py, in float64. */
interface Fixture {
  optimiser: GRPOOptions;
  temperature: number;
  maxCompletionLength: number;
  advantages: number[];
  rollouts: (Record<'promptIds' | 'completionIds' | 'oldLogProbs' | 'refLogProbs' | 'mask', number[]> & {
    group: number;
    reward: number;
  })[];
  cases: {
    name: string;
    /** By TRL's names. */
    options: Record<string, never> & { accumulation: number };
    loss: number;
    gradNorm: number;
    /** Of each rollout, after the update. */
    logProbs: number[][];
    metrics?: Record<string, number>;
  }[];
}

const fixture: Fixture = JSON.parse(readFileSync(`${fixtures}trainer/update.json`, 'utf8'));
const rollouts: Rollout[] = fixture.rollouts.map((rollout) => ({
  ...rollout,
  promptIds: Int32Array.from(rollout.promptIds),
  completionIds: Int32Array.from(rollout.completionIds),
  oldLogProbs: Float32Array.from(rollout.oldLogProbs),
  refLogProbs: Float32Array.from(rollout.refLogProbs),
}));

const base: GRPOOptions = {
  ...fixture.optimiser,
  temperature: fixture.temperature,
  maxCompletionLength: fixture.maxCompletionLength,
  lrSchedulerType: 'constant',
};

let device: Device;
beforeAll(async () => {
  // Its rows do not depend on the batch, so that what differs between two cuts of a batch is the order of sums alone.
  device = await openDevice('cpu', { matmul: 'builtin' });
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

/** One update of the tiny Qwen2: its report, the log-probs of the rollouts after it, and all weights. */
async function updateOnce(options: GRPOOptions, batch: readonly Rollout[] = rollouts) {
  const policy = await CausalLM.load(`${fixtures}models/qwen2`, { device });
  const trainer = await GRPOTrainer.create({ policy, ...base, ...options });
  try {
    const report = await trainer.step(batch);
    const logProbs = await policy.logProbs(batch, { temperature: fixture.temperature });
    const weights = (await policy.parameters.flat.read()) as Float32Array;
    return { report, logProbs, weights };
  } finally {
    await trainer.close();
    policy.dispose();
  }
}

function optionsOf({ options: o }: Fixture['cases'][number]): GRPOOptions {
  return {
    lossType: o.loss_type,
    importanceSamplingLevel: o.importance_sampling_level,
    beta: o.beta,
    epsilon: o.epsilon_low,
    epsilonHigh: o.epsilon_high === o.epsilon_low ? null : o.epsilon_high,
    delta: o.delta,
    ...(Number(o.beta) > 0 ? { useBiasCorrectionKl: o.use_bias_correction_kl } : {}),
    topEntropyQuantile: o.top_entropy_quantile,
    entropyCoefficient: o.entropy_coef,
    offPolicyMaskThreshold: o.off_policy_mask_threshold,
    perDeviceTrainBatchSize: rollouts.length / o.accumulation,
  };
}

describe('one GRPO update equals that of TRL and PyTorch', () => {
  it.each(fixture.cases.map((c) => [c.name, c] as const))('%s', async (_, expected) => {
    const { report, logProbs } = await updateOnce(optionsOf(expected));
    const scale = Math.max(Math.abs(expected.loss), 0.1);
    expect(Math.abs(report.loss - expected.loss) / scale).toBeLessThan(2e-5);
    expect(report.gradNorm / expected.gradNorm).toBeCloseTo(1, 4);
    const differences = expected.logProbs.flatMap((row, i) => row.map((lp, t) => Math.abs(lp - logProbs[i]![t]!)));
    expect(Math.max(...differences)).toBeLessThan(1e-4);
    for (const [name, value] of Object.entries(metricsOf(expected))) expect(report.metrics[name]).toBeCloseTo(value, 5);
  });

  it('would notice a gradient that is 2 % off', async () => {
    const expected = fixture.cases.find((c) => c.name === 'dapo')!;
    const scaled = rollouts.map((rollout, i) => (i === 0 ? { ...rollout, reward: rollout.reward! * 1.02 } : rollout));
    const { report } = await updateOnce(optionsOf(expected), scaled);
    expect(Math.abs(report.gradNorm / expected.gradNorm - 1)).toBeGreaterThan(2e-4);
  });
});

/** TRL averages clip ratios over sequences when the ratio is one of sequences; here they are always token means. */
function metricsOf({ metrics = {}, options }: Fixture['cases'][number]): Record<string, number> {
  if (options.importance_sampling_level === 'sequence') return 'entropy' in metrics ? { entropy: metrics.entropy } : {};
  const { policy_loss: _, entropy_coef: __, ...same } = metrics;
  return same;
}

describe('gradient accumulation', () => {
  const exact = ['grpo', 'dapo', 'dr_grpo', 'luspo', 'cispo', 'sapo', 'vespo'] as const;

  it.each(exact)('%s does not depend on how the batch is cut', async (lossType) => {
    const options: GRPOOptions = { lossType, beta: 0.05, epsilonHigh: lossType === 'cispo' ? 1.1 : null };
    const results: Awaited<ReturnType<typeof updateOnce>>[] = [];
    // 8 rollouts as one micro-batch, and as 3 + 3 + 2 with different numbers of tokens.
    for (const perDeviceTrainBatchSize of [8, 3]) {
      results.push(await updateOnce({ ...options, perDeviceTrainBatchSize }));
    }
    const [whole, cut] = results as [(typeof results)[0], (typeof results)[0]];
    expect(cut.report.loss).toBeCloseTo(whole.report.loss, 5);
    expect(cut.report.gradNorm / whole.report.gradNorm).toBeCloseTo(1, 5);
    for (const name of ['kl', 'entropy', 'clip_ratio/region_mean'] as const) {
      if (whole.report.metrics[name] === undefined) continue;
      expect(cut.report.metrics[name]).toBeCloseTo(whole.report.metrics[name], 5);
    }
    expect(largestDifference(cut.weights, whole.weights)).toBeLessThan(2e-5);
  });

  it('the tokens of highest entropy are those of the update; all but the first micro-batch are scored twice', async () => {
    const score = vi.spyOn(CausalLM.prototype, 'score');
    const options: GRPOOptions = { topEntropyQuantile: 0.4, entropyCoefficient: 0.02, beta: 0.05 };
    const outcome = async (perDeviceTrainBatchSize: number, passes: number) => {
      score.mockClear();
      const result = await updateOnce({ ...options, perDeviceTrainBatchSize });
      // One of `updateOnce` itself.
      expect(score).toHaveBeenCalledTimes(passes + 1);
      return result;
    };
    try {
      const whole = await outcome(8, 1);
      for (const [size, passes] of [
        [3, 5],
        [1, 15],
      ] as const) {
        const cut = await outcome(size, passes);
        expect(cut.report.loss).toBeCloseTo(whole.report.loss, 5);
        expect(cut.report.gradNorm / whole.report.gradNorm).toBeCloseTo(1, 5);
        expect(cut.report.metrics.high_entropy_kept).toBe(whole.report.metrics.high_entropy_kept);
        expect(largestDifference(cut.weights, whole.weights)).toBeLessThan(2e-5);
      }
      const more = await updateOnce({ ...options, topEntropyQuantile: 0.45 });
      expect(Math.abs(more.report.gradNorm / whole.report.gradNorm - 1)).toBeGreaterThan(1e-3);
    } finally {
      score.mockRestore();
    }
  });

  it('bnpo is defined by its micro-batches', async () => {
    const norms: StepReport[] = [];
    for (const perDeviceTrainBatchSize of [8, 3]) {
      const options: GRPOOptions = {
        lossType: 'bnpo',
        perDeviceTrainBatchSize,
        numGenerations: perDeviceTrainBatchSize,
      };
      norms.push((await updateOnce(options)).report);
    }
    expect(Math.abs(norms[0]!.gradNorm / norms[1]!.gradNorm - 1)).toBeGreaterThan(1e-3);
  });
});

describe('an update', () => {
  it('is the same with gradient checkpointing, bit for bit', async () => {
    const plain = await updateOnce({});
    const checkpointed = await updateOnce({ gradientCheckpointing: true });
    expect(checkpointed.weights).toEqual(plain.weights);
  });

  it('does nothing but decay when all completions are masked', async () => {
    const truncated = rollouts.map((rollout) => ({ ...rollout, truncated: true }));
    const { report, weights } = await updateOnce({ maskTruncatedCompletions: true, weightDecay: 0 }, truncated);
    expect(report).toMatchObject({ loss: 0, gradNorm: 0 });
    const policy = await CausalLM.load(`${fixtures}models/qwen2`, { device });
    expect(weights).toEqual(await policy.parameters.flat.read());
    policy.dispose();
  });

  it('leaves out truncated completions only when it is told to', async () => {
    const someTruncated = rollouts.map((rollout, i) => ({ ...rollout, truncated: i % 2 === 0 }));
    const masked = someTruncated.map((rollout) =>
      rollout.truncated ? { ...rollout, mask: rollout.completionIds.map(() => 0) } : rollout,
    );
    const told = await updateOnce({ maskTruncatedCompletions: true }, someTruncated);
    const byHand = await updateOnce({}, masked);
    const untold = await updateOnce({}, someTruncated);
    expect(told.weights).toEqual(byHand.weights);
    expect(told.report.gradNorm).not.toBe(untold.report.gradNorm);
  });

  it('takes advantages as they are, and groups in any order', async () => {
    const plain = await updateOnce({});
    const withAdvantages = rollouts.map((rollout, i) => ({ ...rollout, advantage: fixture.advantages[i]! }));
    const given = await updateOnce({}, withAdvantages);
    expect(given.report.loss).toBeCloseTo(plain.report.loss, 6);
    const interleaved = [0, 4, 1, 5, 2, 6, 3, 7].map((i) => rollouts[i]!);
    const mixed = await updateOnce({}, interleaved);
    expect(mixed.report.loss).toBe(plain.report.loss);
    expect(mixed.weights).toEqual(plain.weights);
  });

  it('computes reference log-probs when the rollouts do not bring them', async () => {
    const bare = rollouts.map(({ refLogProbs: _, oldLogProbs: __, ...rollout }) => rollout);
    const { report } = await updateOnce({ beta: 0.1 }, bare);
    expect(report.metrics.kl).toBe(0);
    expect(report.metrics['ratio/mean']).toBeCloseTo(1, 6);
    // What the caller's rollouts were like.
    expect(report.metrics).toMatchObject({ frac_reward_zero_std: 0, 'completions/max_length': 9, reward: 0.34375 });
  });

  it('rejects rollouts that cannot be used and says which', async () => {
    const bad = (change: object) =>
      updateOnce(
        {},
        rollouts.map((r, i) => (i === 2 ? ({ ...r, ...change } as Rollout) : r)),
      );
    await expect(bad({ completionIds: new Int32Array(0) })).rejects.toThrow(/rollouts\[2\]\.completionIds/);
    await expect(bad({ oldLogProbs: undefined })).rejects.toThrow(/rollouts\[2\]\.oldLogProbs/);
    await expect(bad({ oldLogProbs: new Float32Array(1) })).rejects.toThrow(/2 entries.*1 entries/);
    await expect(bad({ reward: undefined })).rejects.toThrow(/a reward or an advantage for rollouts\[2\]/);
    await expect(bad({ advantage: 1 })).rejects.toThrow(/in all rollouts or in none for rollouts\[2\]\.advantage/);
    await expect(bad({ promptIds: Int32Array.of(9999) })).rejects.toThrow(/9999/);
    await expect(updateOnce({}, [])).rejects.toThrow(/at least one rollout/);
  });
});

function largestDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
}
