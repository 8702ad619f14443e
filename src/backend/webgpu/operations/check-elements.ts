import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Fault, Kernels } from './dispatch.js';

/** Reports the first of `indices` that is not in [0, limit). Shaders read an index outside as one inside. */
export function checkIndices(kernels: Kernels, what: string, indices: TensorView, limit: number): void {
  if (indices.shape[0] === 0) return;
  const message = ({ index, values }: Fault) =>
    `${what}[${index}]: expected an index from 0 to ${limit - 1} but received ${values[0]}`;
  checkElements(kernels, 'check_indices', { indices }, { limit }, message);
}

/** Reports the first of `offsets` that does not begin at 0, falls, or does not end at `total`. */
export function checkOffsets(kernels: Kernels, what: string, offsets: TensorView, total: number): void {
  if (offsets.shape[0] === 0) throw new KernelError(`${what}: expected at least one entry but received none`);
  const message = ({ index, values }: Fault) =>
    `${what}: expected offsets from 0 to ${total} that never fall but received ${values[0]} at ${index}`;
  checkElements(kernels, 'check_offsets', { offsets }, { total }, message);
}

/** Reports the first of `rewards` that is infinite. */
export function checkRewards(kernels: Kernels, what: string, rewards: TensorView): void {
  const message = ({ index, values }: Fault) => {
    const expected = 'a finite reward, or NaN for one that cannot be scored';
    return `${what}[${index}]: expected ${expected}, but received ${values[0] > 0 ? 'inf' : '-inf'}`;
  };
  checkElements(kernels, 'check_rewards', { rewards }, {}, message);
}

/** Runs the functions `good` and `found` of `source` for each element of the one tensor. */
function checkElements(
  kernels: Kernels,
  source: string,
  tensors: Record<string, TensorView>,
  parameters: Record<string, number>,
  message: (fault: Fault) => string,
): void {
  const count = Object.values(tensors)[0]!.shape[0]!;
  kernels.dispatch({
    sources: [source, 'first_fault'],
    parameters: { u32: { count, ...parameters, faultSlot: kernels.faultSlot(message) } },
    tensors,
    writes: [],
    workgroups: 1,
  });
}
