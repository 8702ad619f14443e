import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import type { Arguments, Kernels } from './dispatch.js';
import { rowsOf, rowTiles } from './views.js';

const threads = 256;
/** Elements that a workgroup adds up. */
const chunk = threads * 64;
const wideSum = { reductions: { wide: 'vec3u' }, constants: { THREADS: threads, LANES: threads } } as const;

export function globalNorm(kernels: Kernels, args: Arguments<'globalNorm'>): void {
  const count = args.in.shape[0]!;
  const chunks = Math.ceil(count / chunk);
  const partials = kernels.scratch([Math.max(1, chunks), 4], 'i32');
  for (const { first, rows } of rowTiles(kernels, [args.in], chunk)) {
    kernels.dispatch({
      sources: ['integers', 'global_norm', 'global_norm_chunk'],
      ...wideSum,
      parameters: { u32: { count: rows } },
      tensors: {
        source: rowsOf(args.in, first, rows),
        partials: rowsOf(partials, first / chunk, Math.ceil(rows / chunk)),
      },
      writes: ['partials'],
      workgroups: Math.ceil(rows / chunk),
    });
  }
  kernels.dispatch({
    sources: ['integers', 'global_norm', 'global_norm_root'],
    ...wideSum,
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
  const flat = [parameters, gradients, firstMoment, secondMoment, ...(modelWeights ? [modelWeights] : [])];
  for (const { first, rows } of rowTiles(kernels, flat)) {
    const part = (tensor: TensorView) => rowsOf(tensor, first, rows);
    kernels.dispatch({
      sources: ['adamw'],
      constants: { HAS_NORM: norm != null, HAS_MODEL_WEIGHTS: modelWeights != null },
      parameters: {
        u32: { count: rows },
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
        parameters: part(parameters),
        gradients: part(gradients),
        firstMoment: part(firstMoment),
        secondMoment: part(secondMoment),
        modelWeights: modelWeights ? part(modelWeights) : 'no f32',
        norm: norm ?? 'no f32',
      },
      writes: ['parameters', 'firstMoment', 'secondMoment', 'modelWeights'],
      workgroups: Math.ceil(rows / 256),
    });
  }
}
