import type { Backend, DType } from '../backend/backend.js';
import { InvalidArgumentError } from '../errors.js';

/**
 * dtype of what flows through a decoder and into the cache of keys and values, and of its gradients. Not f16, in which
 * small gradients vanish.
 */
export type ActivationDType = 'f32' | 'bf16';

export const activationDTypes: readonly ActivationDType[] = ['f32', 'bf16'];

/** What was asked for; else bf16 where the device multiplies that fastest and the weights are bf16 too, f32 elsewhere. */
export function activationsOf(
  asked: ActivationDType | null | undefined,
  kind: Backend['kind'],
  weights: DType,
): ActivationDType {
  if (asked === null || asked === undefined) return kind === 'cuda' && weights === 'bf16' ? 'bf16' : 'f32';
  if (activationDTypes.includes(asked)) return asked;
  throw new InvalidArgumentError('activations', activationDTypes.join(' or '), asked);
}
