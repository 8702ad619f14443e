import type { Reward, RewardSample } from '../../../src/rewards/reward.js';

export function sample(completion: string, extra: Partial<RewardSample> = {}): RewardSample {
  const completionIds = Int32Array.from(completion, (_, i) => i);
  return { record: { prompt: 'p' }, prompt: 'p', completion, completionIds, stopReason: 'stop', ...extra };
}

/** The scores of a reward for completions. */
export async function scoresOf(reward: Reward, ...completions: string[]): Promise<(number | null)[]> {
  return Array.from(await reward.score(completions.map((completion) => sample(completion))));
}
