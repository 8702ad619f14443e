import { bytesPerElement, type TensorView } from '../../backend.js';

/** Some rows of a tensor; of one dimension, some elements. Rows of more than two dimensions must adjoin. */
export function rowsOf(tensor: TensorView, first: number, rows: number): TensorView {
  const { shape, rowStride, dtype, byteOffset } = tensor;
  const size = bytesPerElement[dtype];
  if (shape.length === 1) {
    return { ...tensor, shape: [rows], byteOffset: byteOffset + first * size, rowStride: rows };
  }
  return { ...tensor, shape: [rows, ...shape.slice(1)], byteOffset: byteOffset + first * rowStride * size };
}

/** Some columns of a matrix. */
export function columnsOf(tensor: TensorView, first: number, columns: number): TensorView {
  const byteOffset = tensor.byteOffset + first * bytesPerElement[tensor.dtype];
  return { ...tensor, shape: [tensor.shape[0]!, columns], byteOffset };
}
