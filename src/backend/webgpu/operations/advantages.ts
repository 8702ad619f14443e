import { checkOffsets, checkRewards } from './check-elements.js';
import type { Arguments, Kernels } from './dispatch.js';

const batchScale = 1;

export function groupAdvantages(kernels: Kernels, args: Arguments<'groupAdvantages'>): void {
  const { rewards, groupOffsets: offsets, advantages, baseline, scale, epsilon } = args;
  const count = rewards.shape[0]!;
  const groups = offsets.shape[0]! - 1;
  checkOffsets(kernels, 'groupAdvantages: groupOffsets', offsets, count);
  checkRewards(kernels, 'groupAdvantages: rewards', rewards);
  const deviation = kernels.scratch([1], 'f32');
  if (scale === batchScale) {
    kernels.dispatch({
      sources: ['functions', 'reward_moments', 'batch_deviation'],
      parameters: { u32: { count } },
      tensors: { rewards, deviation },
      writes: ['deviation'],
      workgroups: 1,
    });
  }
  kernels.dispatch({
    sources: ['functions', 'reward_moments', 'group_advantages'],
    constants: { BASELINE: baseline, SCALE: scale },
    parameters: { u32: { count, groups }, f32: { epsilon } },
    tensors: { rewards, offsets, deviation, advantages },
    writes: ['advantages'],
    workgroups: Math.ceil(groups / 64),
  });
}
