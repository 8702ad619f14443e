/** Largest `difference` that the sides may have: float32, summed in other orders. */
export const tolerance = 1e-4;

/** The sum of the differences as a share of the sum of the expected magnitudes. */
export function difference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let [apart, size] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    apart += Math.abs(actual[i]! - expected[i]!);
    size += Math.abs(expected[i]!);
  }
  return apart / size;
}
