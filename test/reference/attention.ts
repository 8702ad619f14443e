import { at, type Matrix, matrix } from './matrix.js';

export interface AttentionShape {
  headDim: number;
  scale: number;
}

interface HeadRow {
  /** Softmax over the keys that the row sees. */
  probabilities: number[];
  logSumExp: number;
}

/** One query row and head against the given key rows. */
function headRow(q: Matrix, row: number, head: number, k: Matrix, keyRows: number[], shape: AttentionShape): HeadRow {
  const keyColumn = keyHead(q, k, head, shape) * shape.headDim;
  const scores = keyRows.map((keyRow) => {
    let dot = 0;
    for (let d = 0; d < shape.headDim; d++) dot += at(q, row, head * shape.headDim + d) * at(k, keyRow, keyColumn + d);
    return dot * shape.scale;
  });
  const max = Math.max(...scores);
  const sum = scores.reduce((total, score) => total + Math.exp(score - max), 0);
  const logSumExp = max + Math.log(sum);
  return { probabilities: scores.map((score) => Math.exp(score - logSumExp)), logSumExp };
}

function keyHead(q: Matrix, k: Matrix, head: number, { headDim }: AttentionShape): number {
  return Math.floor((head * (k.columns / headDim)) / (q.columns / headDim));
}

/** The rows that row `row` of a packed batch sees: those of its sequence's parent, then its sequence up to itself. */
function causalRows(offsets: readonly number[], row: number, parents: readonly number[]): number[] {
  const sequence = offsets.findLastIndex((offset) => offset <= row);
  const parent = parents[sequence] ?? -1;
  const rows = (start: number, end: number) => Array.from({ length: end - start }, (_, i) => start + i);
  const before = parent < 0 ? [] : rows(offsets[parent]!, offsets[parent + 1]!);
  return [...before, ...rows(offsets[sequence]!, row + 1)];
}

/** Attention of every query row over the key rows that `seen` names. */
export function attentionOver(
  q: Matrix,
  k: Matrix,
  v: Matrix,
  seen: (row: number) => number[],
  shape: AttentionShape,
): { out: Matrix; logSumExp: Matrix } {
  const heads = q.columns / shape.headDim;
  const out = matrix(q.rows, q.columns);
  const logSumExp = matrix(q.rows, heads);
  for (let row = 0; row < q.rows; row++) {
    const keyRows = seen(row);
    for (let head = 0; head < heads; head++) {
      const { probabilities, logSumExp: lse } = headRow(q, row, head, k, keyRows, shape);
      logSumExp.data[row * heads + head] = lse;
      const valueColumn = keyHead(q, k, head, shape) * shape.headDim;
      for (let d = 0; d < shape.headDim; d++) {
        out.data[row * q.columns + head * shape.headDim + d] = probabilities.reduce(
          (sum, p, j) => sum + p * at(v, keyRows[j]!, valueColumn + d),
          0,
        );
      }
    }
  }
  return { out, logSumExp };
}

/** Causal attention inside each packed sequence and over the sequence that it continues. */
export function attention(
  q: Matrix,
  k: Matrix,
  v: Matrix,
  offsets: readonly number[],
  shape: AttentionShape,
  parents: readonly number[] = [],
) {
  return attentionOver(q, k, v, (row) => causalRows(offsets, row, parents), shape);
}

/** The derivative of `attention` by the chain rule: softmax, then the two products. */
export function attentionBackward(
  q: Matrix,
  k: Matrix,
  v: Matrix,
  offsets: readonly number[],
  gradOut: Matrix,
  shape: AttentionShape,
  parents: readonly number[] = [],
): { gradQueries: Matrix; gradKeys: Matrix; gradValues: Matrix } {
  const { headDim, scale } = shape;
  const gradQueries = matrix(q.rows, q.columns);
  const gradKeys = matrix(k.rows, k.columns);
  const gradValues = matrix(v.rows, v.columns);
  for (let row = 0; row < q.rows; row++) {
    const keyRows = causalRows(offsets, row, parents);
    for (let head = 0; head < q.columns / headDim; head++) {
      const column = head * headDim;
      const keyColumn = keyHead(q, k, head, shape) * headDim;
      const { probabilities } = headRow(q, row, head, k, keyRows, shape);
      const gradProbabilities = keyRows.map((keyRow) => {
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += at(gradOut, row, column + d) * at(v, keyRow, keyColumn + d);
        return dot;
      });
      const mean = probabilities.reduce((sum, p, j) => sum + p * gradProbabilities[j]!, 0);
      keyRows.forEach((keyRow, j) => {
        const gradScore = probabilities[j]! * (gradProbabilities[j]! - mean) * scale;
        for (let d = 0; d < headDim; d++) {
          const keyIndex = keyRow * k.columns + keyColumn + d;
          gradQueries.data[row * q.columns + column + d]! += gradScore * k.data[keyIndex]!;
          gradKeys.data[keyIndex]! += gradScore * at(q, row, column + d);
          gradValues.data[keyIndex]! += probabilities[j]! * at(gradOut, row, column + d);
        }
      });
    }
  }
  return { gradQueries, gradKeys, gradValues };
}
