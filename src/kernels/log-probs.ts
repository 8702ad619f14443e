/**
 * Log-probs and entropies of chosen tokens, from logits or from hidden states, and their gradients (docs/numerics.md,
 * sections 1 and 2). N tokens, V vocabulary, H hidden.
 */
import { GrpoError, InvalidArgumentError } from '../errors.js';
import { Scope, type Tensor } from '../tensor.js';
import { refuseUnknown, requirePositive, requireTensor } from './checks.js';
import { checkMask, checkTargets, type HostNumbers, vector } from './host-data.js';
import { consumed, softmaxScalars } from './logits.js';

/** [N] token ids: an i32 tensor, or an array that is checked at once. */
export type Targets = Tensor | Int32Array | readonly number[];

export interface SoftmaxOptions {
  /** Divides the logits, after the soft cap. Default 1. */
  temperature?: number;
  /** logit -> softcap * tanh(logit / softcap). Default 0: no cap. */
  softcap?: number;
}

export interface TokenLogProbsOptions extends SoftmaxOptions {
  /** [N] i32: rows whose mask is 0 are not read, their results are 0. Left out: all are read. */
  mask?: Tensor | HostNumbers | null;
}

/** Each [N] f32. The caller disposes of them. */
export interface TokenLogProbs {
  /** log p of each target; at most 0. */
  logProbs: Tensor;
  /** Entropy of each row in nats, from 0 to log V. */
  entropy: Tensor;
  /** log of the sum of exp(z) of each row, z the logit after soft cap and temperature. */
  logSumExp: Tensor;
}

export interface LinearOptions extends SoftmaxOptions {
  /** Most bytes that the logits of a chunk of rows take. Default 256 MiB. */
  workspaceBytes?: number;
}

export interface LogProbGradients {
  /** [N] f32, gradient of the loss with respect to the log-probs. */
  gradLogProbs: Tensor;
  /** [N] f32, gradient of the loss with respect to the entropies. Default: none. */
  gradEntropy?: Tensor | null;
  /** [N] f32, as the forward pass gave it. */
  logSumExp: Tensor;
  /** [N] f32, as the forward pass gave it; needed beside `gradEntropy` when the logits are a slice. */
  entropy?: Tensor | null;
  /** Not read: it lets the result of the forward pass be spread into these options. */
  logProbs?: Tensor;
}

/** A slice of the vocabulary, for a head that is split over devices. */
export interface VocabularySlice {
  /** The token id of the first column. Default 0. */
  vocabStart?: number;
  /** Entries of the whole vocabulary. Default: the columns given. */
  vocabSize?: number;
}

export interface TokenLogProbsBackwardOptions extends SoftmaxOptions, LogProbGradients, VocabularySlice {
  /** Overwrite the logits with their gradient. They cannot be differentiated again. Default false. */
  inPlace?: boolean;
  /** [N,V], written instead of a new tensor. */
  gradLogits?: Tensor;
}

export interface LinearBackwardOptions extends LinearOptions, LogProbGradients {
  /** [N,H], overwritten. Default: a new f32 tensor. null when the hidden states need no gradient. */
  gradHidden?: Tensor | null;
  /** [V,H] f32, added to. Default null: the head is frozen and its gradient is not computed. */
  gradWeight?: Tensor | null;
}

const defaultWorkspaceBytes = 256 * 2 ** 20;

/**
 * Log-prob of each target, entropy and log-sum-exp of each row. `logits` is [N,V] in f32, bf16 or f16, possibly with a
 * row stride. One read of the logits; everything is computed in float32 and summed in float64 over chunks of a row.
 */
export function tokenLogProbs(logits: Tensor, targets: Targets, options: TokenLogProbsOptions = {}): TokenLogProbs {
  const name = 'tokenLogProbs';
  refuseUnknown(`${name}: options`, options, ['temperature', 'softcap', 'mask']);
  const { mask } = options;
  const [count, vocab] = requireTensor(`${name}: logits`, logits, 2).shape as [number, number];
  checkMask(`${name}: mask`, mask);
  return withOutputs(logits, targets, name, count, vocab, (ids, outputs, scope) => {
    logits.device.run(name, {
      logits,
      targets: ids,
      mask: mask ? vector(scope, logits.device, `${name}: mask`, mask, 'i32') : null,
      ...outputs,
      ...softmaxScalars(name, options),
    });
    consumed.delete(logits);
  });
}

/**
 * Gradient with respect to the logits, in their dtype: one more read. Rows whose upstream gradients are both 0 get zeros
 * and are not read. With `inPlace` the result is `logits` itself.
 */
export function tokenLogProbsBackward(logits: Tensor, targets: Targets, options: TokenLogProbsBackwardOptions): Tensor {
  const name = 'tokenLogProbsBackward';
  refuseUnknown(`${name}: options`, options, [...gradientKeys, 'inPlace', 'gradLogits', 'vocabStart', 'vocabSize']);
  const vocab = requireTensor(`${name}: logits`, logits, 2).shape[1]!;
  const { inPlace = false, gradLogits, gradLogProbs, gradEntropy, logSumExp, entropy } = options;
  const { vocabStart, vocabSize } = vocabularySlice(name, options, vocab);
  if (consumed.has(logits)) {
    throw new GrpoError('GRPO_CONSUMED', `${name}: the logits were overwritten by their gradient (inPlace) before`);
  }
  if (inPlace && gradLogits) throw new InvalidArgumentError(`${name}: gradLogits`, 'nothing with inPlace', gradLogits);
  checkTargets(`${name}: targets`, targets, vocabSize);
  const scope = new Scope();
  try {
    const out = inPlace ? logits : (gradLogits ?? scope.track(logits.device.empty(logits.shape, logits.dtype)));
    logits.device.run(name, {
      logits,
      targets: vector(scope, logits.device, `${name}: targets`, targets, 'i32'),
      logSumExp,
      entropy,
      gradLogProbs,
      gradEntropy,
      gradLogits: out,
      ...softmaxScalars(name, options),
      vocabStart,
      vocabSize,
    });
    if (inPlace) consumed.add(logits);
    return scope.keep(out);
  } finally {
    scope.dispose();
  }
}

/**
 * What one slice of the vocabulary adds to the log-probs of its rows: [N,4] f32, for `tokenLogProbsMerge`. Targets count
 * in the whole vocabulary.
 */
export function tokenLogProbsPartial(
  logits: Tensor,
  targets: Targets,
  options: SoftmaxOptions & VocabularySlice = {},
): Tensor {
  const name = 'tokenLogProbsPartial';
  refuseUnknown(`${name}: options`, options, ['temperature', 'softcap', 'vocabStart', 'vocabSize']);
  const [count, vocab] = requireTensor(`${name}: logits`, logits, 2).shape as [number, number];
  const slice = vocabularySlice(name, options, vocab);
  checkTargets(`${name}: targets`, targets, slice.vocabSize);
  const scope = new Scope();
  try {
    const partial = scope.track(logits.device.empty([count, 4]));
    const ids = vector(scope, logits.device, `${name}: targets`, targets, 'i32');
    logits.device.run(name, { logits, targets: ids, partial, ...softmaxScalars(name, options), ...slice });
    return scope.keep(partial);
  } finally {
    scope.dispose();
  }
}

/** Joins the partials of P slices, [P,N,4]. The slices may come in any order: the result has the same bits. */
export function tokenLogProbsMerge(partials: Tensor): TokenLogProbs {
  const count = requireTensor('tokenLogProbsMerge: partials', partials, 3).shape[1]!;
  const outputs = emptyOutputs(partials, count);
  try {
    partials.device.run('tokenLogProbsMerge', { partials, ...outputs });
    return outputs;
  } catch (error) {
    disposeOutputs(outputs);
    throw error;
  }
}

/**
 * `tokenLogProbs` of hidden [N,H] times weight [V,H] transposed, without holding [N,V]: chunks of rows whose logits fit
 * `workspaceBytes`. The logits are float32 whatever the dtype of the operands.
 */
export function linearTokenLogProbs(
  hidden: Tensor,
  weight: Tensor,
  targets: Targets,
  options: LinearOptions = {},
): TokenLogProbs {
  const name = 'linearTokenLogProbs';
  refuseUnknown(`${name}: options`, options, ['temperature', 'softcap', 'workspaceBytes']);
  const count = requireTensor(`${name}: hidden`, hidden, 2).shape[0]!;
  const vocab = requireTensor(`${name}: weight`, weight, 2).shape[0]!;
  return withOutputs(hidden, targets, name, count, vocab, (ids, outputs) => {
    hidden.device.run(name, { hidden, weight, targets: ids, ...outputs, ...linearScalars(name, options) });
  });
}

/**
 * Gradients of the fused head. The logits of a chunk are computed again, overwritten with their gradient and multiplied
 * with the head and with the hidden states. Rows without upstream gradient are left out of all three products.
 */
export function linearTokenLogProbsBackward(
  hidden: Tensor,
  weight: Tensor,
  targets: Targets,
  options: LinearBackwardOptions,
): { gradHidden: Tensor | null; gradWeight: Tensor | null } {
  const name = 'linearTokenLogProbsBackward';
  refuseUnknown(`${name}: options`, options, [...gradientKeys, 'workspaceBytes', 'gradHidden', 'gradWeight']);
  requireTensor(`${name}: hidden`, hidden, 2);
  const vocab = requireTensor(`${name}: weight`, weight, 2).shape[0]!;
  checkTargets(`${name}: targets`, targets, vocab);
  const { gradLogProbs, gradEntropy, logSumExp, entropy, gradWeight = null } = options;
  const scope = new Scope();
  try {
    const gradHidden =
      options.gradHidden === undefined ? scope.track(hidden.device.empty(hidden.shape)) : options.gradHidden;
    hidden.device.run(name, {
      hidden,
      weight,
      targets: vector(scope, hidden.device, `${name}: targets`, targets, 'i32'),
      logSumExp,
      entropy,
      gradLogProbs,
      gradEntropy,
      gradHidden,
      gradWeight,
      ...linearScalars(name, options),
    });
    return { gradHidden: gradHidden && scope.keep(gradHidden), gradWeight };
  } finally {
    scope.dispose();
  }
}

const gradientKeys = ['temperature', 'softcap', 'gradLogProbs', 'gradEntropy', 'logSumExp', 'entropy', 'logProbs'];

function linearScalars(name: string, options: LinearOptions) {
  const { workspaceBytes = defaultWorkspaceBytes } = options;
  return {
    ...softmaxScalars(name, options),
    workspaceBytes: requirePositive(`${name}: workspaceBytes`, workspaceBytes),
  };
}

function vocabularySlice(name: string, { vocabStart = 0, vocabSize }: VocabularySlice, columns: number) {
  const size = vocabSize ?? columns;
  if (!Number.isSafeInteger(size) || size < columns) {
    throw new InvalidArgumentError(`${name}: vocabSize`, `an integer of ${columns} or more`, size);
  }
  if (!Number.isSafeInteger(vocabStart) || vocabStart < 0 || vocabStart + columns > size) {
    throw new InvalidArgumentError(`${name}: vocabStart`, `an integer from 0 to ${size - columns}`, vocabStart);
  }
  return { vocabStart, vocabSize: size };
}

function emptyOutputs({ device }: Tensor, count: number): TokenLogProbs {
  return { logProbs: device.empty([count]), entropy: device.empty([count]), logSumExp: device.empty([count]) };
}

function disposeOutputs(outputs: TokenLogProbs): void {
  for (const tensor of Object.values(outputs)) tensor.dispose();
}

/** Makes the three results, lets `run` queue what fills them, and frees them when that throws. */
function withOutputs(
  input: Tensor,
  targets: Targets | HostNumbers,
  name: string,
  count: number,
  vocab: number,
  run: (targets: Tensor, outputs: TokenLogProbs, temporary: Scope) => void,
): TokenLogProbs {
  checkTargets(`${name}: targets`, targets, vocab);
  const scope = new Scope();
  const outputs = emptyOutputs(input, count);
  try {
    run(vector(scope, input.device, `${name}: targets`, targets, 'i32'), outputs, scope);
    return outputs;
  } catch (error) {
    disposeOutputs(outputs);
    throw error;
  } finally {
    scope.dispose();
  }
}
