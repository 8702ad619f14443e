/** A row-major matrix in float64. */
export interface Matrix {
  rows: number;
  columns: number;
  data: Float64Array;
}

export function matrix(
  rows: number,
  columns: number,
  value: (row: number, column: number) => number = () => 0,
): Matrix {
  const data = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) data[r * columns + c] = value(r, c);
  return { rows, columns, data };
}

export function at(m: Matrix, row: number, column: number): number {
  return m.data[row * m.columns + column]!;
}

export function transposed(m: Matrix): Matrix {
  return matrix(m.columns, m.rows, (r, c) => at(m, c, r));
}
