import type { TensorView } from '../../backend.js';

/** The tensors that are there. */
export function present(tensors: Record<string, TensorView | null | undefined>): Record<string, TensorView> {
  return Object.fromEntries(Object.entries(tensors).flatMap(([name, tensor]) => (tensor ? [[name, tensor]] : [])));
}
