import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import { checkIndices } from './check-elements.js';
import type { Arguments, Kernels } from './dispatch.js';
import { elementWorkgroups } from './for-each-element.js';

export function gatherRows(kernels: Kernels, args: Arguments<'gatherRows'>): void {
  requireOneDtype('gatherRows', args);
  checkIndices(kernels, 'gatherRows: indices', args.indices, args.in.shape[0]!);
  moveRows(kernels, args, args.in.shape[0]!, true);
}

export function scatterRows(kernels: Kernels, args: Arguments<'scatterRows'>): void {
  requireOneDtype('scatterRows', args);
  checkIndices(kernels, 'scatterRows: indices', args.indices, args.out.shape[0]!);
  moveRows(kernels, args, args.out.shape[0]!, false);
}

export function embedding(kernels: Kernels, { table, ids, out }: Arguments<'embedding'>): void {
  checkIndices(kernels, 'embedding: ids', ids, table.shape[0]!);
  moveRows(kernels, { in: table, indices: ids, out }, table.shape[0]!, true);
}

export function embeddingBackward(kernels: Kernels, args: Arguments<'embeddingBackward'>): void {
  const { gradOut, ids, gradTable } = args;
  checkIndices(kernels, 'embeddingBackward: ids', ids, gradTable.shape[0]!);
  const [rows, columns] = gradOut.shape as [number, number];
  if (columns === 0) return;
  kernels.dispatch({
    sources: ['embedding_backward'],
    parameters: { u32: { rows, columns, limit: gradTable.shape[0]! } },
    tensors: { gradOut, ids, gradTable },
    writes: ['gradTable'],
    workgroups: rows,
  });
}

function moveRows(
  kernels: Kernels,
  tensors: { in: TensorView; indices: TensorView; out: TensorView },
  limit: number,
  gather: boolean,
): void {
  const rows = tensors.indices.shape[0]!;
  const columns = tensors.out.shape[1]!;
  kernels.dispatch({
    sources: ['move_rows', 'elementwise'],
    constants: { GATHER: gather },
    parameters: { u32: { count: rows * columns, columns, limit } },
    tensors: { source: tensors.in, indices: tensors.indices, out: tensors.out },
    writes: ['out'],
    workgroups: elementWorkgroups(rows * columns),
  });
}

function requireOneDtype(operation: string, args: { in: TensorView; out: TensorView }): void {
  if (args.in.dtype !== args.out.dtype) throw new KernelError(`${operation}: in and out differ in dtype`);
}
