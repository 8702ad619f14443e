/** The tolerances of docs/numerics.md, section 1, and what they are measured with. */
export const gradientTolerance = { f32: 1e-5, bf16: 2 ** -7, f16: 2 ** -10 } as const;

export function logProbTolerance(logSumExp: number): number {
  return 2e-6 * Math.max(1, Math.abs(logSumExp));
}

/** |actual - truth| / |truth| in the Euclidean norm; 0 when both are all zeros. */
export function relativeError(actual: ArrayLike<number>, truth: ArrayLike<number>): number {
  let difference = 0;
  let size = 0;
  for (let i = 0; i < truth.length; i++) {
    difference += (actual[i]! - truth[i]!) ** 2;
    size += truth[i]! ** 2;
  }
  if (size === 0) return difference === 0 ? 0 : Infinity;
  return Math.sqrt(difference / size);
}

/** Largest relative error over the rows of a matrix. */
export function worstRow(actual: ArrayLike<number>, truth: ArrayLike<number>, columns: number): number {
  let worst = 0;
  for (let begin = 0; begin < truth.length; begin += columns) {
    const row = (x: ArrayLike<number>) => Array.prototype.slice.call(x, begin, begin + columns) as number[];
    const error = relativeError(row(actual), row(truth));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

/** A matrix with one row multiplied: what a tolerance must notice. */
export function withScaledRow(values: ArrayLike<number>, columns: number, row: number, factor: number): number[] {
  return Array.from(values, (x, i) => (Math.floor(i / columns) === row ? x * factor : x));
}

/** Uniform numbers of [-1, 1) from a seed, the same in every run. */
export function randomNumbers(seed: number): () => number {
  let state = (seed * 2654435761 + 1) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) as number;
  };
}
