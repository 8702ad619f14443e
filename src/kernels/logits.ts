import type { Tensor } from '../tensor.js';
import { requireNonNegative, requirePositive } from './checks.js';
import type { SoftmaxOptions } from './log-probs.js';

/** Logits that hold a gradient now. A new forward pass says that they were filled again. */
export const consumed = new WeakSet<Tensor>();

export function softmaxScalars(name: string, { temperature = 1, softcap = 0 }: SoftmaxOptions) {
  return {
    temperature: requirePositive(`${name}: temperature`, temperature),
    softcap: requireNonNegative(`${name}: softcap`, softcap),
  };
}
