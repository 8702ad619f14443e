import { KernelError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';

const tile = 64;

export function matmul(kernels: Kernels, args: Arguments<'matmul'>): void {
  const { a, b, bias, out } = args;
  const [m, n] = out.shape as [number, number];
  const [aRows, k] = args.transposeA ? [a.shape[1]!, a.shape[0]!] : [a.shape[0]!, a.shape[1]!];
  const [bRows, bColumns] = args.transposeB ? [b.shape[1]!, b.shape[0]!] : [b.shape[0]!, b.shape[1]!];
  if (aRows !== m || bRows !== k || bColumns !== n) {
    throw new KernelError(
      `matmul: expected op(a) [${m},k], op(b) [k,${n}] but received [${aRows},${k}], [${bRows},${bColumns}]`,
    );
  }
  kernels.dispatch({
    sources: ['matmul'],
    factors: ['a', 'b'],
    constants: {
      TRANSPOSE_A: args.transposeA !== 0,
      TRANSPOSE_B: args.transposeB !== 0,
      ACCUMULATE: args.accumulate !== 0,
      HAS_BIAS: bias != null,
    },
    parameters: { u32: { m, n, k } },
    tensors: { a, b, bias: bias ?? 'no f32', out },
    writes: ['out'],
    workgroups: Math.ceil(m / tile) * Math.ceil(n / tile),
  });
}
