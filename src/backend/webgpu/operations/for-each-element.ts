import type { TensorView } from '../../backend.js';
import type { Dispatch, Kernels } from './dispatch.js';
import { asRows, rowsOf, rowTiles } from './views.js';

/** Threads of a workgroup of kernels/wgsl/elementwise.wgsl. */
const threads = 256;

/** Runs the function `element` of `sources` for each element of tensors of one shape, in tiles that fit bindings. */
export function forEachElement(
  kernels: Kernels,
  sources: readonly string[],
  tensors: Record<string, TensorView>,
  writes: readonly string[],
  parameters: NonNullable<Dispatch['parameters']> = {},
): void {
  const entries = Object.entries(tensors).map(([name, tensor]) => [name, asRows(tensor)] as const);
  const all = entries.map(([, tensor]) => tensor);
  const { shape } = all[0]!;
  for (const { first, rows } of rowTiles(kernels, all)) {
    const [height, columns] = shape.length === 1 ? [1, rows] : [rows, shape[1]!];
    kernels.dispatch({
      sources: [...sources, 'elementwise'],
      parameters: { ...parameters, u32: { count: height * columns, columns, ...parameters.u32 } },
      tensors: Object.fromEntries(entries.map(([name, tensor]) => [name, rowsOf(tensor, first, rows)])),
      writes,
      workgroups: elementWorkgroups(height * columns),
    });
  }
}

/** Workgroups of kernels/wgsl/elementwise.wgsl for so many elements. */
export function elementWorkgroups(count: number): number {
  return Math.ceil(count / threads);
}
