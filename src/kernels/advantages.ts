import { InvalidArgumentError } from '../errors.js';
import { type Device, Scope, Tensor } from '../tensor.js';
import { refuseUnknown, requireChoice, requireNonNegative } from './checks.js';
import { checkEach, checkOffsets, type HostNumbers, isHostData, vector } from './host-data.js';

/** In the order of the C API. */
export const advantageBaselines = ['mean', 'leave-one-out', 'none'] as const;
export const advantageScales = ['group', 'batch', 'none'] as const;
export type AdvantageBaseline = (typeof advantageBaselines)[number];
export type AdvantageScale = (typeof advantageScales)[number];

export interface AdvantageOptions {
  /** Rewards a group, when all groups have the same size. */
  groupSize?: number;
  /** [G+1] i32: group g has the rewards groupOffsets[g] up to groupOffsets[g+1]. */
  groupOffsets?: Tensor | Int32Array | readonly number[];
  /** What is taken off a reward: its group's mean, the mean of the others, or nothing. Default 'mean'. */
  baseline?: AdvantageBaseline;
  /** What divides: the standard deviation (n - 1) of the group or of the whole batch, or 1. Default 'group'. */
  scale?: AdvantageScale;
  /** Added to the standard deviation. Default 1e-4. */
  epsilon?: number;
  /** Where to compute, when the rewards are an array. */
  device?: Device;
}

/**
 * Advantages [B] f32 of the rewards of groups of completions, computed in float64 (docs/numerics.md, section 3). A group
 * whose rewards are all equal gets exactly 0. A reward of NaN could not be scored: it counts for nothing and gets 0.
 */
export function groupAdvantages(rewards: Tensor | HostNumbers, options: AdvantageOptions): Tensor {
  const known = ['groupSize', 'groupOffsets', 'baseline', 'scale', 'epsilon', 'device'];
  refuseUnknown('groupAdvantages: options', options, known);
  const { baseline = 'mean', scale = 'group', epsilon = 1e-4 } = options;
  const device = rewards instanceof Tensor ? rewards.device : options.device;
  if (!device) throw new InvalidArgumentError('groupAdvantages: device', 'a device beside an array of rewards', device);
  if (isHostData(rewards)) {
    const expected = 'a finite number, or NaN for a reward that could not be scored';
    checkEach('groupAdvantages: rewards', rewards, expected, (reward) => !(Math.abs(reward) === Infinity));
  }
  const scope = new Scope();
  try {
    const values = vector(scope, device, 'groupAdvantages: rewards', rewards, 'f32');
    const offsets = groupOffsets(options, values.size);
    const advantages = scope.track(device.empty([values.size]));
    device.run('groupAdvantages', {
      rewards: values,
      groupOffsets: vector(scope, device, 'groupAdvantages: groupOffsets', offsets, 'i32'),
      advantages,
      baseline: requireChoice('groupAdvantages: baseline', advantageBaselines, baseline),
      scale: requireChoice('groupAdvantages: scale', advantageScales, scale),
      epsilon: requireNonNegative('groupAdvantages: epsilon', epsilon),
    });
    return scope.keep(advantages);
  } finally {
    scope.dispose();
  }
}

function groupOffsets({ groupSize, groupOffsets: offsets }: AdvantageOptions, count: number): Tensor | HostNumbers {
  if ((groupSize === undefined) === (offsets === undefined)) {
    throw new InvalidArgumentError('groupAdvantages', 'either groupSize or groupOffsets', groupSize);
  }
  if (offsets !== undefined) {
    checkOffsets('groupAdvantages: groupOffsets', offsets, count);
    return offsets;
  }
  if (!Number.isInteger(groupSize) || groupSize! < 1 || count % groupSize! !== 0) {
    throw new InvalidArgumentError('groupAdvantages: groupSize', `a divisor of ${count}`, groupSize);
  }
  return Int32Array.from({ length: count / groupSize! + 1 }, (_, g) => g * groupSize!);
}
