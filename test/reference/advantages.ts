/** Section 3 of docs/numerics.md in float64. */
export interface ReferenceAdvantageOptions {
  baseline: 'mean' | 'leave-one-out' | 'none';
  scale: 'group' | 'batch' | 'none';
  epsilon: number;
}

export function referenceAdvantages(
  groups: readonly (readonly number[])[],
  { baseline, scale, epsilon }: ReferenceAdvantageOptions,
): number[] {
  const scorable = (rewards: readonly number[]) => rewards.filter((reward) => !Number.isNaN(reward));
  const batchDeviation = deviation(scorable(groups.flat()));
  return groups.flatMap((group) => {
    const rewards = scorable(group);
    const flat = rewards.length === 0 || Math.max(...rewards) === Math.min(...rewards);
    return group.map((reward) => {
      if (Number.isNaN(reward) || flat) return 0;
      const others = (sum(rewards) - reward) / (rewards.length - 1);
      const base = baseline === 'mean' ? mean(rewards) : baseline === 'leave-one-out' ? others : 0;
      const spread = scale === 'group' ? deviation(rewards) : batchDeviation;
      return (reward - base) / (scale === 'none' ? 1 : spread + epsilon);
    });
  });
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

function deviation(values: readonly number[]): number {
  return Math.sqrt(sum(values.map((value) => (value - mean(values)) ** 2)) / (values.length - 1));
}
