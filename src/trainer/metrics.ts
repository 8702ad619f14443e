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
  const put = (name: string, value: number) => {
    if (Number.isFinite(value)) metrics[name] = value;
  };
  const scorable = [...scored.totals].filter((total) => !Number.isNaN(total));
  put('reward', mean(scorable));
  put('reward_std', standardDeviation(scorable));
  put('frac_reward_zero_std', shareOfFlatGroups(scored.totals, groupSize));
  put('frac_reward_unscorable', 1 - scorable.length / scored.totals.length);
  for (const [name, scores] of Object.entries(scored.scores)) {
    const finite = scores.filter((score): score is number => score !== null && !Number.isNaN(score));
    put(`rewards/${name}/mean`, mean(finite));
    put(`rewards/${name}/std`, standardDeviation(finite));
    const failed = scores.filter((score) => score !== null && Number.isNaN(score)).length;
    if (failed > 0) put(`rewards/${name}/unscorable`, failed);
  }
  const lengths = completions.map((completion) => completion.completionIds.length);
  const terminated = lengths.filter((_, i) => completions[i]!.stopReason === 'stop');
  put('completions/mean_length', mean(lengths));
  put('completions/min_length', Math.min(...lengths));
  put('completions/max_length', Math.max(...lengths));
  put('completions/clipped_ratio', 1 - terminated.length / lengths.length);
  put('completions/mean_terminated_length', mean(terminated));
  put('completions/min_terminated_length', Math.min(...terminated));
  put('completions/max_terminated_length', Math.max(...terminated));
  return metrics;
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

/** With n - 1; 0 for a single value. */
export function standardDeviation(values: readonly number[]): number {
  if (values.length === 1) return 0;
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

/** Groups in which all scorable rewards are equal: their completions have no advantage. */
function shareOfFlatGroups(totals: Float64Array, groupSize: number): number {
  let flat = 0;
  for (let begin = 0; begin < totals.length; begin += groupSize) {
    const group = totals.subarray(begin, begin + groupSize).filter((total) => !Number.isNaN(total));
    if (group.every((total) => total === group[0])) flat++;
  }
  return flat / (totals.length / groupSize);
}
