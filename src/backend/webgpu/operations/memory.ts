import { UnsupportedError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';
import { forEachElement } from './for-each-element.js';

export function fill(kernels: Kernels, { out, value }: Arguments<'fill'>): void {
  if (out.dtype === 'i32')
    forEachElement(kernels, ['fill_integers'], { out }, ['out'], { u32: { value: Math.trunc(value) } });
  else forEachElement(kernels, ['fill'], { out }, ['out'], { f32: { value } });
}

export function copy(kernels: Kernels, { in: source, out }: Arguments<'copy'>): void {
  if (source.dtype !== out.dtype && (source.dtype === 'i32' || out.dtype === 'i32')) {
    throw new UnsupportedError('copy: no conversion between i32 and float tensors');
  }
  forEachElement(kernels, ['copy'], { source, out }, ['out']);
}

export function add(kernels: Kernels, { a, b, out, alpha, beta }: Arguments<'add'>): void {
  forEachElement(kernels, ['add'], { a, b, out }, ['out'], { f32: { alpha, beta } });
}
