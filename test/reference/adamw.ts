export interface AdamWOptions {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  weightDecay: number;
  /** Counts from 1. */
  step: number;
  /** Gradients are scaled to at most this norm; 0 or less: not at all. */
  maxNorm: number;
}

/** sqrt of the sum of squares. */
export function globalNorm(values: Float64Array): number {
  return Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
}

/** One AdamW update in place: Loshchilov and Hutter, "Decoupled weight decay regularization", algorithm 2. */
export function adamw(
  parameters: Float64Array,
  gradients: Float64Array,
  firstMoment: Float64Array,
  secondMoment: Float64Array,
  norm: number,
  options: AdamWOptions,
): void {
  const { learningRate, beta1, beta2, epsilon, weightDecay, step, maxNorm } = options;
  const clip = maxNorm > 0 ? Math.min(1, maxNorm / (norm + 1e-6)) : 1;
  for (let i = 0; i < parameters.length; i++) {
    const gradient = gradients[i]! * clip;
    firstMoment[i] = beta1 * firstMoment[i]! + (1 - beta1) * gradient;
    secondMoment[i] = beta2 * secondMoment[i]! + (1 - beta2) * gradient * gradient;
    const mean = firstMoment[i]! / (1 - beta1 ** step);
    const variance = secondMoment[i]! / (1 - beta2 ** step);
    parameters[i] =
      parameters[i]! * (1 - learningRate * weightDecay) - (learningRate * mean) / (Math.sqrt(variance) + epsilon);
  }
}
