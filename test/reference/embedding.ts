import { at, type Matrix, matrix } from './matrix.js';

/** The rows of `table` that `ids` name. */
export function embedding(table: Matrix, ids: readonly number[]): Matrix {
  return matrix(ids.length, table.columns, (r, c) => at(table, ids[r]!, c));
}

/** What each of `vocabulary` rows of the table receives. */
export function embeddingBackward(gradOut: Matrix, ids: readonly number[], vocabulary: number): Matrix {
  const gradTable = matrix(vocabulary, gradOut.columns);
  ids.forEach((id, r) => {
    for (let c = 0; c < gradOut.columns; c++) gradTable.data[id * gradOut.columns + c]! += at(gradOut, r, c);
  });
  return gradTable;
}
