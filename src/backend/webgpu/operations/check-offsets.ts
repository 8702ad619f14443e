import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Kernels } from './dispatch.js';

/** Checks that offsets begin at 0, never fall and end at `total`; `what` names them. */
export function checkOffsets(kernels: Kernels, what: string, offsets: TensorView, total: number): void {
  const count = offsets.shape[0]!;
  if (count === 0) throw new KernelError(`${what}: expected at least one entry but received none`);
  const faultSlot = kernels.faultSlot(
    ({ index, values }) =>
      `${what}: expected offsets from 0 to ${total} that never fall but received ${values[0]} at ${index}`,
  );
  kernels.dispatch({
    sources: ['check_offsets'],
    parameters: { u32: { count, total, faultSlot } },
    tensors: { offsets },
    writes: [],
    workgroups: 1,
  });
}
