import { checkOffsets } from './check-offsets.js';
import type { Arguments, Kernels } from './dispatch.js';

const batchScale = 1;

export function groupAdvantages(kernels: Kernels, args: Arguments<'groupAdvantages'>): void {
  const { rewards, groupOffsets: offsets, advantages, baseline, scale, epsilon } = args;
  const count = rewards.shape[0]!;
  const groups = offsets.shape[0]! - 1;
  checkOffsets(kernels, 'groupAdvantages: groupOffsets', offsets, count);
  const faultSlot = kernels.faultSlot(({ index, values }) => {
    const reward = values[0] > 0 ? 'inf' : '-inf';
    return `groupAdvantages: rewards[${index}]: expected a finite reward, or NaN for one that cannot be scored, but received ${reward}`;
  });
  kernels.dispatch({
    sources: ['check_rewards'],
    parameters: { u32: { count, faultSlot } },
    tensors: { rewards },
    writes: [],
    workgroups: 1,
  });
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
