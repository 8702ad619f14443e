import { describe, expect, it } from 'vitest';
import type { Completion } from '../../../src/rollout/engine.js';
import { averageMetrics, rewardMetrics, rolloutMetrics } from '../../../src/trainer/metrics.js';

const completion = (length: number, stopReason: 'stop' | 'length'): Completion => ({
  completionIds: new Int32Array(length),
  text: '',
  logProbs: new Float32Array(length),
  stopReason,
});

describe('rolloutMetrics', () => {
  it('takes means over what could be scored', () => {
    const metrics = rolloutMetrics(
      {
        totals: Float64Array.of(1, 3, Number.NaN, 5),
        scores: { a: [1, 3, Number.NaN, 5], b: [null, 2, null, null] },
        failures: [],
      },
      [completion(2, 'stop'), completion(4, 'length'), completion(6, 'stop'), completion(4, 'length')],
      2,
    );
    expect(metrics).toEqual({
      reward: 3,
      reward_std: 2,
      // The second group has one scorable reward.
      frac_reward_zero_std: 0.5,
      frac_reward_unscorable: 0.25,
      'rewards/a/mean': 3,
      'rewards/a/std': 2,
      'rewards/a/unscorable': 1,
      'rewards/b/mean': 2,
      'rewards/b/std': 0,
      'completions/mean_length': 4,
      'completions/min_length': 2,
      'completions/max_length': 6,
      'completions/clipped_ratio': 0.5,
      'completions/mean_terminated_length': 4,
      'completions/min_terminated_length': 2,
      'completions/max_terminated_length': 6,
    });
  });

  it('leaves out a mean of nothing', () => {
    const scored = { totals: Float64Array.of(Number.NaN), scores: { a: [Number.NaN] }, failures: [] };
    const metrics = rolloutMetrics(scored, [completion(3, 'length')], 1);
    expect(metrics).toMatchObject({
      frac_reward_unscorable: 1,
      frac_reward_zero_std: 1,
      'completions/clipped_ratio': 1,
    });
    expect(Object.keys(metrics).filter((name) => /^reward(_std)?$|terminated|a\/mean/.test(name))).toEqual([]);
  });
});

describe('rewardMetrics', () => {
  it('takes groups of different sizes', () => {
    const metrics = rewardMetrics(Float64Array.of(1, 1, 1, 0, 1), Int32Array.of(0, 3, 5));
    expect(metrics).toMatchObject({ reward: 0.8, frac_reward_zero_std: 0.5 });
  });
});

describe('averageMetrics', () => {
  it('averages each metric over the records that have it', () => {
    expect(averageMetrics([{ a: 1, b: 4 }, { a: 3 }])).toEqual({ a: 2, b: 4 });
    expect(averageMetrics([])).toEqual({});
  });
});
