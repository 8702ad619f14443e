/** Section 1 of docs/numerics.md as it is written, in float64: the truth that kernels are held to. */
export interface ReferenceSoftmax {
  temperature: number;
  softcap: number;
}

export interface ReferenceRow {
  logProb: number;
  entropy: number;
  logSumExp: number;
}

export function referenceRow(
  logits: ArrayLike<number>,
  target: number,
  { temperature, softcap }: ReferenceSoftmax,
): ReferenceRow {
  const z = Array.from(logits, (x) => (softcap ? softcap * Math.tanh(x / softcap) : x) / temperature);
  const max = Math.max(...z);
  const sum = z.reduce((total, x) => total + Math.exp(x - max), 0);
  const logSum = Math.log(sum);
  const entropy = z.reduce((total, x) => {
    const p = Math.exp(x - max) / sum;
    return p === 0 ? total : total - p * (x - max - logSum);
  }, 0);
  return { logProb: z[target]! - max - logSum, entropy: Math.max(entropy, 0), logSumExp: max + logSum };
}

/** Gradient of g * logProb + h * entropy with respect to the logits. */
export function referenceRowGradient(
  logits: ArrayLike<number>,
  target: number,
  softmax: ReferenceSoftmax,
  g: number,
  h: number,
): Float64Array {
  const { temperature, softcap } = softmax;
  const { entropy, logSumExp } = referenceRow(logits, target, softmax);
  return Float64Array.from(logits, (x, v) => {
    const tanh = softcap ? Math.tanh(x / softcap) : 0;
    const z = (softcap ? softcap * tanh : x) / temperature;
    const p = Math.exp(z - logSumExp);
    const own = v === target ? 1 : 0;
    const ofEntropy = p === 0 ? 0 : h * p * (z - logSumExp + entropy);
    return ((g * (own - p) - ofEntropy) / temperature) * (1 - tanh * tanh);
  });
}
