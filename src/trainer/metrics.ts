import type { ScoredBatch } from '../rewards/score.js';
import type { Completion } from '../rollout/engine.js';

/**
 * What `docs/training.md` lists as metrics of rewards and completions. Completions of a group stand side by side.
 * A mean of nothing is left out.
 */
export function rolloutMetrics(
  scored: ScoredBatch,
  completions: readonly Completion[],
  groupSize: number,
): Record<string, number> {
  const metrics: Record<string, number> = {};
  for (const [name, scores] of Object.entries(scored.scores)) {
    const finite = scores.filter((score): score is number => score !== null && !Number.isNaN(score));
    metrics[`rewards/${name}/mean`] = mean(finite);
    metrics[`rewards/${name}/std`] = standardDeviation(finite);
    const failed = scores.filter((score) => score !== null && Number.isNaN(score)).length;
    if (failed > 0) metrics[`rewards/${name}/unscorable`] = failed;
  }
  const groups = Int32Array.from({ length: scored.totals.length / groupSize + 1 }, (_, g) => g * groupSize);
  const lengths = completions.map((completion) => completion.completionIds.length);
  const truncated = completions.map((completion) => completion.stopReason === 'length');
  return finiteOnly({
    ...rewardMetrics(scored.totals, groups),
    ...metrics,
    ...completionMetrics(lengths, truncated),
  });
}

/** Of the rewards of groups; group g has those from groupOffsets[g] up to groupOffsets[g + 1]. */
export function rewardMetrics(totals: Float64Array, groupOffsets: Int32Array): Record<string, number> {
  const scorable = [...totals].filter((total) => !Number.isNaN(total));
  return finiteOnly({
    reward: mean(scorable),
    reward_std: standardDeviation(scorable),
    frac_reward_zero_std: shareOfFlatGroups(totals, groupOffsets),
    frac_reward_unscorable: 1 - scorable.length / totals.length,
  });
}

export function completionMetrics(lengths: readonly number[], truncated: readonly boolean[]): Record<string, number> {
  const terminated = lengths.filter((_, i) => !truncated[i]);
  return finiteOnly({
    'completions/mean_length': mean(lengths),
    'completions/min_length': Math.min(...lengths),
    'completions/max_length': Math.max(...lengths),
    'completions/clipped_ratio': 1 - terminated.length / lengths.length,
    'completions/mean_terminated_length': mean(terminated),
    'completions/min_terminated_length': Math.min(...terminated),
    'completions/max_terminated_length': Math.max(...terminated),
  });
}

/** How many updates older than the policy the completions are; nothing where engine or completions do not tell. */
export function stalenessMetrics(
  completions: readonly Completion[],
  version: number | undefined,
): Record<string, number> {
  if (version === undefined || completions.some((completion) => completion.version === undefined)) return {};
  return { 'rollout/staleness': mean(completions.map((completion) => version - completion.version!)) };
}

/** The mean of each metric over the records that have it. */
export function averageMetrics(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const names = new Set(records.flatMap((record) => Object.keys(record)));
  return Object.fromEntries(
    [...names].map((name) => [name, mean(records.flatMap((record) => (name in record ? [record[name]!] : [])))]),
  );
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** With n - 1; 0 for a single value, NaN for none. */
export function standardDeviation(values: readonly number[]): number {
  if (values.length < 2) return values.length === 1 ? 0 : Number.NaN;
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

/** Groups in which all scorable rewards are equal: their completions have no advantage. */
function shareOfFlatGroups(totals: Float64Array, groupOffsets: Int32Array): number {
  const count = groupOffsets.length - 1;
  let flat = 0;
  for (let g = 0; g < count; g++) {
    const group = totals.subarray(groupOffsets[g], groupOffsets[g + 1]).filter((total) => !Number.isNaN(total));
    if (group.every((total) => total === group[0])) flat++;
  }
  return flat / count;
}

function finiteOnly(metrics: Record<string, number>): Record<string, number> {
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => Number.isFinite(value)));
}
