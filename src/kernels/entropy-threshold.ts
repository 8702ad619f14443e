import { InvalidArgumentError } from '../errors.js';
import { type Device, Scope, Tensor } from '../tensor.js';
import { refuseUnknown, requireShare } from './checks.js';
import { checkMask, type HostNumbers, vector } from './host-data.js';

export interface EntropyThresholdOptions {
  /** Share of the active tokens, those of highest entropy, that lie at or above the threshold: above 0, at most 1. */
  topEntropyQuantile: number;
  /** [N] i32, 1 for tokens that count and 0 for those that do not, whatever their entropies. Left out: all count. */
  mask?: Tensor | HostNumbers | null;
  /** Where to compute, when the entropies are an array. */
  device?: Device;
}

/**
 * From entropies [N] f32 the threshold that `policyLoss` takes as `entropyThreshold`, [2] f32: the entropy itself, a
 * quantile interpolated linearly, and the share of the active tokens that reach it, which ties make larger. Both are 0
 * without an active token. For a loss of several calls: give the entropies of all of them. Queued; nothing waits.
 */
export function entropyThreshold(entropy: Tensor | HostNumbers, options: EntropyThresholdOptions): Tensor {
  refuseUnknown('entropyThreshold: options', options, ['topEntropyQuantile', 'mask', 'device']);
  const { topEntropyQuantile, mask } = options;
  requireShare('entropyThreshold: topEntropyQuantile', topEntropyQuantile);
  const device = entropy instanceof Tensor ? entropy.device : options.device;
  if (!device) {
    throw new InvalidArgumentError('entropyThreshold: device', 'a device beside an array of entropies', device);
  }
  checkMask('entropyThreshold: mask', mask);
  const scope = new Scope();
  try {
    const threshold = scope.track(device.empty([2]));
    device.run('entropyThreshold', {
      entropy: vector(scope, device, 'entropyThreshold: entropy', entropy, 'f32'),
      mask: mask ? vector(scope, device, 'entropyThreshold: mask', mask, 'i32') : null,
      threshold,
      topEntropyQuantile,
    });
    return scope.keep(threshold);
  } finally {
    scope.dispose();
  }
}
