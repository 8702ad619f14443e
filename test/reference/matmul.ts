import { at, type Matrix, matrix, transposed } from './matrix.js';

/** op(a) op(b) + bias. */
export function matmul(
  a: Matrix,
  b: Matrix,
  { transposeA = false, transposeB = false, bias }: { transposeA?: boolean; transposeB?: boolean; bias?: Matrix } = {},
): Matrix {
  const left = transposeA ? transposed(a) : a;
  const right = transposeB ? transposed(b) : b;
  return matrix(left.rows, right.columns, (r, c) => {
    let sum = bias ? bias.data[c]! : 0;
    for (let k = 0; k < left.columns; k++) sum += at(left, r, k) * at(right, k, c);
    return sum;
  });
}

/** The gradients of a and b for upstream `gradOut`, by matrix products alone. */
export function matmulBackward(
  a: Matrix,
  b: Matrix,
  gradOut: Matrix,
  { transposeA = false, transposeB = false } = {},
): { gradA: Matrix; gradB: Matrix } {
  const gradLeft = matmul(gradOut, b, { transposeB: !transposeB });
  const gradRight = matmul(a, gradOut, { transposeA: !transposeA });
  return {
    gradA: transposeA ? transposed(gradLeft) : gradLeft,
    gradB: transposeB ? transposed(gradRight) : gradRight,
  };
}

/** The sum of each column, as a row. */
export function columnSum(m: Matrix): Matrix {
  const sums = matrix(1, m.columns);
  for (let r = 0; r < m.rows; r++) for (let c = 0; c < m.columns; c++) sums.data[c]! += at(m, r, c);
  return sums;
}
