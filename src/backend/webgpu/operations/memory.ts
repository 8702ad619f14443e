import { UnsupportedError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Arguments, Kernels } from './dispatch.js';

const threads = 256;

export function fill(kernels: Kernels, { out, value }: Arguments<'fill'>): void {
  const parameters = elements(out);
  const whole = out.dtype === 'i32';
  kernels.dispatch({
    sources: [whole ? 'fill_integers' : 'fill', 'elementwise'],
    parameters: whole ? { u32: { ...parameters, value: Math.trunc(value) } } : { u32: parameters, f32: { value } },
    tensors: { out },
    writes: ['out'],
    workgroups: Math.ceil(parameters.count / threads),
  });
}

export function copy(kernels: Kernels, { in: source, out }: Arguments<'copy'>): void {
  if (source.dtype !== out.dtype && (source.dtype === 'i32' || out.dtype === 'i32')) {
    throw new UnsupportedError('copy: no conversion between i32 and float tensors');
  }
  const parameters = elements(out);
  kernels.dispatch({
    sources: ['copy', 'elementwise'],
    parameters: { u32: parameters },
    tensors: { source, out },
    writes: ['out'],
    workgroups: Math.ceil(parameters.count / threads),
  });
}

export function add(kernels: Kernels, { a, b, out, alpha, beta }: Arguments<'add'>): void {
  const parameters = elements(out);
  kernels.dispatch({
    sources: ['add', 'elementwise'],
    parameters: { u32: parameters, f32: { alpha, beta } },
    tensors: { a, b, out },
    writes: ['out'],
    workgroups: Math.ceil(parameters.count / threads),
  });
}

function elements({ shape }: TensorView): { count: number; columns: number } {
  return { count: shape.reduce((size, length) => size * length, 1), columns: shape.at(-1) ?? 1 };
}
