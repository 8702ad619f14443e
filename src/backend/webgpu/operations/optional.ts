import type { TensorView } from '../../backend.js';
import type { Dispatch } from './dispatch.js';

/** Optional float tensors as a dispatch takes them: those that are left out read as 0. */
export function optional(tensors: Record<string, TensorView | null | undefined>): Dispatch['tensors'] {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor ?? 'no f32']));
}
