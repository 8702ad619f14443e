import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Arguments, Kernels } from './dispatch.js';

const threads = 64;
const chunkRows = 256;

export function rmsNorm(kernels: Kernels, args: Arguments<'rmsNorm'>): void {
  const { in: source, weight, out, inverseRms, epsilon } = args;
  const { columns, group, groups } = normGroups('rmsNorm', source, weight);
  kernels.dispatch({
    sources: ['rms_norm', 'rms_norm_forward'],
    reductions: { sum: 'f32' },
    constants: { ...lanes(group), HAS_INVERSE_RMS: inverseRms != null },
    parameters: { u32: { columns, group, groups }, f32: { epsilon } },
    tensors: { source, weight, out, inverseRms: inverseRms ?? 'no f32' },
    writes: ['out', 'inverseRms'],
    workgroups: Math.ceil((groups * lanes(group).LANES) / threads),
  });
}

export function rmsNormBackward(kernels: Kernels, args: Arguments<'rmsNormBackward'>): void {
  const { in: source, weight, inverseRms, gradOut, gradIn, gradWeight } = args;
  const { columns, group, groups } = normGroups('rmsNormBackward', source, weight);
  if (gradWeight && groups > 0) {
    // Before the gradient of the input, which may replace what this reads.
    sumChunks(kernels, groups, group, gradWeight, (partials, parameters, workgroups) =>
      kernels.dispatch({
        sources: ['column_sum', 'rms_norm_weight'],
        parameters: { u32: { ...parameters, columns } },
        tensors: { source, inverseRms, gradOut, partials },
        writes: ['partials'],
        workgroups,
      }),
    );
  }
  kernels.dispatch({
    sources: ['rms_norm', 'rms_norm_backward'],
    reductions: { sum: 'f32' },
    constants: { ...lanes(group), ACCUMULATE: args.accumulate !== 0 },
    parameters: { u32: { columns, group, groups } },
    tensors: { source, weight, inverseRms, gradOut, gradIn },
    writes: ['gradIn'],
    workgroups: Math.ceil((groups * lanes(group).LANES) / threads),
  });
}

export function columnSum(kernels: Kernels, args: Arguments<'columnSum'>): void {
  const [rows, columns] = args.in.shape as [number, number];
  sumChunks(kernels, rows, columns, args.out, (partials, parameters, workgroups) =>
    kernels.dispatch({
      sources: ['column_sum', 'column_sum_rows'],
      parameters: { u32: parameters },
      tensors: { source: args.in, partials },
      writes: ['partials'],
      workgroups,
    }),
  );
}

/** out += the sum over rows of `width` columns: chunks of rows first, then the chunks, in order. */
function sumChunks(
  kernels: Kernels,
  rows: number,
  width: number,
  out: TensorView,
  sum: (partials: TensorView, parameters: Record<string, number>, workgroups: number) => void,
): void {
  const chunks = Math.ceil(rows / chunkRows);
  if (chunks === 0 || width === 0) return;
  const across = Math.ceil(width / 32);
  const partials = kernels.scratch([chunks, width], 'f32');
  sum(partials, { rows, width, chunkRows }, across * chunks);
  kernels.dispatch({
    sources: ['column_sum', 'column_sum_chunks'],
    parameters: { u32: { rows: chunks, width, chunkRows: chunks } },
    tensors: { source: partials, out },
    writes: ['out'],
    workgroups: across,
  });
}

function normGroups(operation: string, source: TensorView, weight: TensorView) {
  const [rows, columns] = source.shape as [number, number];
  const group = weight.shape[0]!;
  if (group === 0 || columns % group !== 0) {
    throw new KernelError(
      `${operation}: expected rows of a multiple of ${group} weights but received ${columns} columns`,
    );
  }
  return { columns, group, groups: (rows * columns) / group };
}

/** Threads that share a group: as many as it has elements, up to a workgroup. */
function lanes(group: number): { THREADS: number; LANES: number } {
  let LANES = 4;
  while (LANES < Math.min(group / 2, threads)) LANES *= 2;
  return { THREADS: threads, LANES };
}
