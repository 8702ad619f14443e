import { at, type Matrix, matrix } from './matrix.js';

/**
 * Turns each pair (i, i + headDim / 2) of each head by positions[n] * inverseFrequencies[i]; backwards, the other way.
 * Angles are float32 products, as in the models whose weights are loaded.
 */
export function rope(
  input: Matrix,
  positions: readonly number[],
  inverseFrequencies: Float32Array,
  { backward = false } = {},
): Matrix {
  const half = inverseFrequencies.length;
  return matrix(input.rows, input.columns, (r, c) => {
    const i = c % (2 * half);
    const angle = Math.fround(positions[r]! * inverseFrequencies[i % half]!);
    const sine = backward ? -Math.sin(angle) : Math.sin(angle);
    const partner = i < half ? -at(input, r, c + half) : at(input, r, c - half);
    return at(input, r, c) * Math.cos(angle) + partner * sine;
  });
}
