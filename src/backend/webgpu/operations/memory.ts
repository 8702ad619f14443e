import { UnsupportedError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Arguments, Dispatch, Kernels } from './dispatch.js';
import { asRows, rowsOf, rowTiles } from './views.js';

const threads = 256;

export function fill(kernels: Kernels, { out, value }: Arguments<'fill'>): void {
  if (out.dtype === 'i32') elementwise(kernels, 'fill_integers', { out }, { u32: { value: Math.trunc(value) } });
  else elementwise(kernels, 'fill', { out }, { f32: { value } });
}

export function copy(kernels: Kernels, { in: source, out }: Arguments<'copy'>): void {
  if (source.dtype !== out.dtype && (source.dtype === 'i32' || out.dtype === 'i32')) {
    throw new UnsupportedError('copy: no conversion between i32 and float tensors');
  }
  elementwise(kernels, 'copy', { source, out }, {});
}

export function add(kernels: Kernels, { a, b, out, alpha, beta }: Arguments<'add'>): void {
  elementwise(kernels, 'add', { a, b, out }, { f32: { alpha, beta } });
}

/** Runs `source` for each element, in tiles that fit bindings. */
function elementwise(
  kernels: Kernels,
  source: string,
  tensors: Record<string, TensorView>,
  parameters: NonNullable<Dispatch['parameters']>,
): void {
  const entries = Object.entries(tensors).map(([name, tensor]) => [name, asRows(tensor)] as const);
  const all = entries.map(([, tensor]) => tensor);
  const columns = all[0]!.shape[1] ?? 1;
  for (const { first, rows } of rowTiles(kernels, all)) {
    const part = entries.map(([name, tensor]) => [name, rowsOf(tensor, first, rows)] as const);
    const flat = all[0]!.shape.length === 1;
    const sizes = { count: rows * columns, columns: flat ? rows : columns };
    kernels.dispatch({
      sources: [source, 'elementwise'],
      parameters: { ...parameters, u32: { ...sizes, ...parameters.u32 } },
      tensors: Object.fromEntries(part),
      writes: ['out'],
      workgroups: Math.ceil(sizes.count / threads),
    });
  }
}
