import { InvalidArgumentError } from '../errors.js';

/**
 * The `statistics` tensor of a policy loss, in order: the twin of the enumeration in kernels/common/policy_loss.h.
 * Sums run over the active tokens of a call; calls and ranks are added up.
 */
const sums = [
  'activeTokens',
  /** Sequences with at least one active token. */
  'sequences',
  'kl',
  'entropy',
  'ratio',
  /** k3 of old against the policy. */
  'policyKl',
  /** Tokens whose ratio is below the lower bound with a negative advantage. */
  'lowClipped',
  /** Tokens whose ratio is above the upper bound with a positive advantage. */
  'highClipped',
  /** Tokens that the off-policy sequence mask drops. */
  'offPolicyMasked',
  /** Tokens that the high-entropy mask keeps. */
  'highEntropy',
  /** VESPO's weights. */
  'phi',
  /** |old - rollout|. */
  'rolloutDifference',
  /** k3 of rollout against old. */
  'rolloutKl',
  'rolloutWeight',
  'rolloutWeightSquare',
  /** Tokens whose rollout correction is 0. */
  'rolloutMasked',
] as const;
const minima = ['ratioMin', 'lowClippedMin'] as const;
const maxima = ['ratioMax', 'highClippedMax', 'rolloutDifferenceMax'] as const;
const names = [...sums, ...minima, ...maxima] as const;
type Statistic = (typeof names)[number];

export const policyStatisticNames: readonly string[] = names;
export const policyStatisticCount = names.length;

/** Which metrics a policy loss has: those of the tensors and options that it was given. */
export interface ReportedMetrics {
  clipping: boolean;
  kl: boolean;
  entropy: boolean;
  offPolicyMask: boolean;
  highEntropyMask: boolean;
  phi: boolean;
  rollout: boolean;
}

/** The statistics of several calls, micro-batches or ranks as those of one. */
export function mergePolicyStatistics(parts: readonly ArrayLike<number>[]): Float64Array {
  const merged = new Float64Array(policyStatisticCount);
  names.forEach((name, i) => {
    const values = parts.map((part, p) => {
      if (part.length !== policyStatisticCount) {
        const expected = `${policyStatisticCount} statistics`;
        throw new InvalidArgumentError(`mergePolicyStatistics: parts[${p}]`, expected, part.length);
      }
      return part[i]!;
    });
    if (i < sums.length) merged[i] = values.reduce((total, value) => total + value, 0);
    else if ((minima as readonly string[]).includes(name)) merged[i] = Math.min(...values);
    else merged[i] = Math.max(...values);
  });
  return merged;
}

/**
 * Metrics under the names that TRL users know; means are over active tokens unless the name says otherwise. Empty when
 * no token is active.
 *
 * - `kl`: the KL estimate to the reference, as the loss uses it (times the ratio with biasCorrectedKl);
 * - `entropy`: nats;
 * - `ratio/mean|min|max`: the importance ratio, before delta;
 * - `policy_kl`: k3 of the old policy against the current one;
 * - `clip_ratio/low_mean|high_mean|region_mean`: share of tokens outside the lower bound with a negative advantage,
 *   outside the upper bound (for cispo the cap) with a positive one, either; `low_min`, `high_max`: extremes over
 *   sequences of a sequence's share;
 * - `off_policy_masked`, `high_entropy_kept`: shares of tokens; `vespo/phi_mean`;
 * - `rollout/difference_mean|difference_max`: |old - rollout|; `rollout/kl`: k3 of rollout against old;
 *   `rollout/weight_mean`, `rollout/effective_sample_size`: of the correction's weights, the latter from 0 to 1;
 *   `rollout/masked`: share of tokens of weight 0.
 */
export function policyMetrics(statistics: ArrayLike<number>, reported: ReportedMetrics): Record<string, number> {
  const value = (name: Statistic) => statistics[names.indexOf(name)]!;
  const tokens = value('activeTokens');
  if (tokens === 0) return {};
  const mean = (name: (typeof sums)[number]) => value(name) / tokens;
  const metrics: Record<string, number> = {
    'ratio/mean': mean('ratio'),
    'ratio/min': value('ratioMin'),
    'ratio/max': value('ratioMax'),
    policy_kl: mean('policyKl'),
  };
  if (reported.kl) metrics.kl = mean('kl');
  if (reported.entropy) metrics.entropy = mean('entropy');
  if (reported.clipping) {
    metrics['clip_ratio/low_mean'] = mean('lowClipped');
    metrics['clip_ratio/high_mean'] = mean('highClipped');
    metrics['clip_ratio/region_mean'] = mean('lowClipped') + mean('highClipped');
    metrics['clip_ratio/low_min'] = value('lowClippedMin');
    metrics['clip_ratio/high_max'] = value('highClippedMax');
  }
  if (reported.offPolicyMask) metrics.off_policy_masked = mean('offPolicyMasked');
  if (reported.highEntropyMask) metrics.high_entropy_kept = mean('highEntropy');
  if (reported.phi) metrics['vespo/phi_mean'] = mean('phi');
  if (reported.rollout) {
    const squares = value('rolloutWeightSquare');
    metrics['rollout/difference_mean'] = mean('rolloutDifference');
    metrics['rollout/difference_max'] = value('rolloutDifferenceMax');
    metrics['rollout/kl'] = mean('rolloutKl');
    metrics['rollout/weight_mean'] = mean('rolloutWeight');
    metrics['rollout/effective_sample_size'] = squares > 0 ? value('rolloutWeight') ** 2 / (tokens * squares) : 0;
    metrics['rollout/masked'] = mean('rolloutMasked');
  }
  return metrics;
}
