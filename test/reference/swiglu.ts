import { type Matrix, matrix } from './matrix.js';

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

/** silu(gate) * up. */
export function swiglu(gate: Matrix, up: Matrix): Matrix {
  const { columns } = gate;
  return matrix(gate.rows, columns, (r, c) => {
    const i = r * columns + c;
    return gate.data[i]! * sigmoid(gate.data[i]!) * up.data[i]!;
  });
}

export function swigluBackward(gate: Matrix, up: Matrix, gradOut: Matrix): { gradGate: Matrix; gradUp: Matrix } {
  const { rows, columns } = gate;
  const gradGate = matrix(rows, columns, (r, c) => {
    const i = r * columns + c;
    const s = sigmoid(gate.data[i]!);
    return gradOut.data[i]! * up.data[i]! * (s + gate.data[i]! * s * (1 - s));
  });
  const gradUp = matrix(rows, columns, (r, c) => {
    const i = r * columns + c;
    return gradOut.data[i]! * gate.data[i]! * sigmoid(gate.data[i]!);
  });
  return { gradGate, gradUp };
}
