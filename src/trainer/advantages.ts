import { groupAdvantages } from '../kernels/advantages.js';
import type { Device } from '../tensor.js';
import type { GRPOConfig } from './config.js';
import { byGroup, type Rollout } from './rollout.js';

/** The rollouts, groups side by side, each with its advantage: the one it brings, or that of its reward in its group. */
export async function withAdvantages(
  device: Device,
  rollouts: readonly Rollout[],
  { baseline, scaleRewards }: Pick<GRPOConfig, 'baseline' | 'scaleRewards'>,
): Promise<Rollout[]> {
  if (rollouts.every((rollout) => rollout.advantage !== undefined)) return [...rollouts];
  const { sorted, offsets } = byGroup(rollouts);
  const rewards = Float32Array.from(sorted, (rollout) => rollout.reward!);
  const advantages = groupAdvantages(rewards, { device, groupOffsets: offsets, baseline, scale: scaleRewards });
  try {
    const values = await advantages.read();
    return sorted.map((rollout, i) => ({ ...rollout, advantage: values[i]! }));
  } finally {
    advantages.dispose();
  }
}
