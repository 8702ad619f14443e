import { KernelError } from '../../../errors.js';
import type { TensorView } from '../../backend.js';
import { checkIndices } from './check-elements.js';
import type { Arguments, Kernels } from './dispatch.js';
import { optional } from './optional.js';
import { rowsOf, rowTiles } from './views.js';

export function tokenLogProbs(kernels: Kernels, args: Arguments<'tokenLogProbs'>): void {
  const { logits, targets, mask, entropy, logSumExp } = args;
  const columns = logits.shape[1]!;
  const transform = rowTransform('tokenLogProbs', args.temperature, args.softcap);
  checkIndices(kernels, 'tokenLogProbs: targets', targets, columns);
  for (const { first, rows } of rowTiles(kernels, [logits])) {
    const part = (tensor: TensorView) => rowsOf(tensor, first, rows);
    kernels.dispatch({
      sources: ['functions', 'row_softmax', 'token_log_probs'],
      reductions: { statistics: 'vec3f' },
      constants: {
        ...transform.constants,
        ...workgroupSize(columns),
        HAS_MASK: mask != null,
        HAS_ENTROPY: entropy != null,
        HAS_LOG_SUM_EXP: logSumExp != null,
      },
      parameters: { u32: { rows, columns }, f32: transform.parameters },
      tensors: {
        logits: part(logits),
        targets: part(targets),
        mask: mask ? part(mask) : 'no i32',
        logProbs: part(args.logProbs),
        ...optional({ entropy: entropy && part(entropy), logSumExp: logSumExp && part(logSumExp) }),
      },
      writes: ['logProbs', 'entropy', 'logSumExp'],
      workgroups: rows,
    });
  }
}

export function tokenLogProbsBackward(kernels: Kernels, args: Arguments<'tokenLogProbsBackward'>): void {
  const name = 'tokenLogProbsBackward';
  const { logits, targets, logSumExp, entropy, gradLogProbs, gradEntropy, gradLogits } = args;
  const columns = logits.shape[1]!;
  const slice = vocabularySlice(name, args, columns);
  const transform = rowTransform(name, args.temperature, args.softcap);
  checkIndices(kernels, `${name}: targets`, targets, slice.vocabulary);
  if (gradEntropy && !entropy && !slice.whole) {
    throw new KernelError(`${name}: expected the entropy of the rows beside gradEntropy`);
  }
  const inPlace = gradLogits.storage === logits.storage && gradLogits.byteOffset === logits.byteOffset;
  if (inPlace && (gradLogits.dtype !== logits.dtype || gradLogits.rowStride !== logits.rowStride)) {
    throw new KernelError(`${name}: in place, gradLogits must have the dtype and rows of logits`);
  }
  for (const { first, rows } of rowTiles(kernels, [logits, gradLogits])) {
    const part = (tensor: TensorView) => rowsOf(tensor, first, rows);
    kernels.dispatch({
      sources: ['functions', 'row_softmax', 'token_log_probs_backward'],
      reductions: { statistics: 'vec3f', sum: 'f32' },
      constants: {
        ...transform.constants,
        ...workgroupSize(columns),
        HAS_ENTROPY: entropy != null,
        HAS_GRAD_ENTROPY: gradEntropy != null,
        WHOLE: slice.whole,
      },
      parameters: { u32: { rows, columns, vocabStart: slice.start }, f32: transform.parameters },
      tensors: {
        logits: part(logits),
        targets: part(targets),
        logSumExp: part(logSumExp),
        gradLogProbs: part(gradLogProbs),
        gradLogits: part(gradLogits),
        ...optional({ entropy: entropy && part(entropy), gradEntropy: gradEntropy && part(gradEntropy) }),
      },
      writes: ['gradLogits'],
      workgroups: rows,
    });
  }
}

export function tokenLogProbsPartial(kernels: Kernels, args: Arguments<'tokenLogProbsPartial'>): void {
  const name = 'tokenLogProbsPartial';
  const { logits, targets, partial } = args;
  const columns = logits.shape[1]!;
  const slice = vocabularySlice(name, args, columns);
  const transform = rowTransform(name, args.temperature, args.softcap);
  checkIndices(kernels, `${name}: targets`, targets, slice.vocabulary);
  for (const { first, rows } of rowTiles(kernels, [logits])) {
    kernels.dispatch({
      sources: ['functions', 'row_softmax', 'token_log_probs_partial'],
      reductions: { statistics: 'vec3f' },
      constants: { ...transform.constants, ...workgroupSize(columns) },
      parameters: { u32: { rows, columns, vocabStart: slice.start }, f32: transform.parameters },
      tensors: {
        logits: rowsOf(logits, first, rows),
        targets: rowsOf(targets, first, rows),
        partial: rowsOf(partial, first, rows),
      },
      writes: ['partial'],
      workgroups: rows,
    });
  }
}

export function tokenLogProbsMerge(kernels: Kernels, args: Arguments<'tokenLogProbsMerge'>): void {
  const { partials, entropy, logSumExp } = args;
  const [slices, rows] = partials.shape as [number, number];
  kernels.dispatch({
    sources: ['functions', 'token_log_probs_merge'],
    constants: { HAS_ENTROPY: entropy != null, HAS_LOG_SUM_EXP: logSumExp != null },
    parameters: { u32: { rows, slices }, f32: specialFloats },
    tensors: { partials, logProbs: args.logProbs, ...optional({ entropy, logSumExp }) },
    writes: ['logProbs', 'entropy', 'logSumExp'],
    workgroups: Math.ceil(rows / 64),
  });
}

/** Threads that share a row: so few that each reads four logits some 32 times, which outweighs joining their sums. */
function workgroupSize(columns: number): { THREADS: number; LANES: number } {
  const threads = Math.min(256, Math.max(32, 2 ** Math.ceil(Math.log2(columns / 128))));
  return { THREADS: threads, LANES: threads };
}

/** As parameters, since WGSL has no way to write them. */
const specialFloats = { nan: Number.NaN, negativeInfinity: Number.NEGATIVE_INFINITY };

function rowTransform(operation: string, temperature: number, softcap: number) {
  const inverseTemperature = Math.fround(1 / temperature);
  if (!(temperature > 0 && Number.isFinite(inverseTemperature) && inverseTemperature > 0)) {
    throw new KernelError(`${operation}: expected a temperature above 0 but received ${temperature}`);
  }
  if (!(softcap >= 0 && Number.isFinite(Math.fround(softcap)))) {
    throw new KernelError(`${operation}: expected a softcap of 0 or more but received ${softcap}`);
  }
  return {
    constants: { SOFTCAP: softcap > 0 },
    parameters: { inverseTemperature, softcap, ...specialFloats },
  };
}

function vocabularySlice(name: string, args: { vocabStart: number; vocabSize: number }, columns: number) {
  const start = Math.trunc(args.vocabStart);
  const vocabulary = args.vocabSize > 0 ? Math.trunc(args.vocabSize) : columns;
  if (start < 0 || start + columns > vocabulary) {
    throw new KernelError(
      `${name}: expected a slice inside ${vocabulary} entries but received ${columns} from ${start}`,
    );
  }
  return { start, vocabulary, whole: start === 0 && vocabulary === columns };
}
