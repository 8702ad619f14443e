import { KernelError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';
import { forEachElement } from './for-each-element.js';

export function rope(kernels: Kernels, args: Arguments<'rope'>): void {
  const { in: source, positions, inverseFrequencies, out, headDim } = args;
  const [rows, columns] = source.shape as [number, number];
  const frequencies = inverseFrequencies.shape[0]!;
  if (headDim <= 0 || frequencies * 2 !== headDim || columns % headDim !== 0) {
    throw new KernelError(
      `rope: expected ${columns} columns to be whole heads of headDim ${headDim}, with half as many frequencies but received ${frequencies}`,
    );
  }
  kernels.dispatch({
    sources: ['integers', 'rope'],
    constants: { BACKWARD: args.backward !== 0 },
    parameters: { u32: { rows, columns, headDim } },
    tensors: { source, positions, inverseFrequencies, out },
    writes: ['out'],
    workgroups: Math.ceil((rows * columns) / 2 / 256),
  });
}

export function swiglu(kernels: Kernels, { gate, up, out }: Arguments<'swiglu'>): void {
  forEachElement(kernels, ['swiglu', 'swiglu_forward'], { gate, up, out }, ['out']);
}

export function swigluBackward(kernels: Kernels, args: Arguments<'swigluBackward'>): void {
  const { gate, up, gradOut, gradGate, gradUp } = args;
  const tensors = { gate, up, gradOut, gradGate, gradUp };
  forEachElement(kernels, ['swiglu', 'swiglu_backward'], tensors, ['gradGate', 'gradUp']);
}
