import { bytesPerElement, type TensorView } from '../../backend.js';
import type { Kernels } from './dispatch.js';

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

/** A tensor of any shape as rows of its last dimension; one of one dimension as it is. */
export function asRows(tensor: TensorView): TensorView {
  const { shape } = tensor;
  if (shape.length === 1 || shape.length === 2) return tensor;
  const rows = shape.slice(0, -1).reduce((product, length) => product * length, 1);
  return shape.length === 0 ? { ...tensor, shape: [1], rowStride: 1 } : { ...tensor, shape: [rows, shape.at(-1)!] };
}

/** The rows (elements, of one dimension) of tensors, so many at a time that a binding covers those of each. */
export function* rowTiles(
  kernels: Kernels,
  tensors: readonly TensorView[],
  multiple = 1,
): Generator<{ first: number; rows: number }> {
  const total = tensors[0]!.shape[0]!;
  const rowBytes = tensors.map(
    ({ shape, rowStride, dtype }) => (shape.length === 1 ? 1 : rowStride) * bytesPerElement[dtype],
  );
  const most = Math.floor(kernels.bindingBytes / Math.max(...rowBytes, 1) / multiple) * multiple;
  const each = Math.max(multiple, most);
  for (let first = 0; first < total; first += each) yield { first, rows: Math.min(each, total - first) };
}
