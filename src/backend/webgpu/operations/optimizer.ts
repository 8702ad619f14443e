import { KernelError } from '../../../errors.js';
import type { Arguments, Kernels } from './dispatch.js';

const chunk = 256 * 64;

export function globalNorm(kernels: Kernels, args: Arguments<'globalNorm'>): void {
  const count = args.in.shape[0]!;
  const chunks = Math.ceil(count / chunk);
  const partials = kernels.scratch([Math.max(1, chunks), 4], 'i32');
  kernels.dispatch({
    sources: ['integers', 'global_norm', 'global_norm_chunk'],
    parameters: { u32: { count } },
    tensors: { source: args.in, partials },
    writes: ['partials'],
    workgroups: chunks,
  });
  kernels.dispatch({
    sources: ['integers', 'global_norm', 'global_norm_root'],
    parameters: { u32: { chunks } },
    tensors: { partials, norm: args.norm },
    writes: ['norm'],
    workgroups: 1,
  });
}

export function adamw(kernels: Kernels, args: Arguments<'adamw'>): void {
  const { parameters, gradients, firstMoment, secondMoment, modelWeights, norm } = args;
  const { learningRate, beta1, beta2, epsilon, weightDecay, step, maxNorm } = args;
  if (!(step >= 1)) throw new KernelError(`adamw: expected a step from 1 on but received ${step}`);
  const count = parameters.shape[0]!;
  kernels.dispatch({
    sources: ['adamw'],
    constants: { HAS_NORM: norm != null, HAS_MODEL_WEIGHTS: modelWeights != null },
    parameters: {
      u32: { count },
      f32: {
        kept: 1 - learningRate * weightDecay,
        newFirst: 1 - beta1,
        oldSecond: beta2,
        newSecond: 1 - beta2,
        stepSize: learningRate / (1 - beta1 ** step),
        correctionRoot: Math.sqrt(1 - beta2 ** step),
        epsilon,
        maxNorm,
      },
    },
    tensors: {
      parameters,
      gradients,
      firstMoment,
      secondMoment,
      modelWeights: modelWeights ?? 'no f32',
      norm: norm ?? 'no f32',
    },
    writes: ['parameters', 'firstMoment', 'secondMoment', 'modelWeights'],
    workgroups: Math.ceil(count / 256),
  });
}
