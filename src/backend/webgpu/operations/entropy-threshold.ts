import { KernelError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';

export function entropyThreshold(kernels: Kernels, args: Arguments<'entropyThreshold'>): void {
  const { entropy, mask, threshold, topEntropyQuantile: share } = args;
  if (!(share > 0 && share <= 1)) {
    const expected = 'a topEntropyQuantile above 0 and at most 1';
    throw new KernelError(`entropyThreshold: expected ${expected} but received ${share}`);
  }
  kernels.dispatch({
    sources: ['entropy_threshold'],
    constants: { HAS_MASK: mask != null },
    parameters: { u32: { tokens: entropy.shape[0]! }, f32: { quantile: 1 - share } },
    tensors: { threshold, entropy, mask: mask ?? 'no i32' },
    writes: ['threshold'],
    workgroups: 1,
  });
}
