import { KernelError } from '../../../errors.js';
import { bytesPerElement, type TensorView } from '../../backend.js';
import type { Arguments, Kernels } from './dispatch.js';
import { columnsOf, rowsOf } from './views.js';

/** tokenLogProbs of hidden * weight^T, for as many rows at a time as the workspace holds logits of. */
export function linearTokenLogProbs(kernels: Kernels, args: Arguments<'linearTokenLogProbs'>): void {
  const { hidden, weight, targets, logProbs, entropy, logSumExp, temperature, softcap } = args;
  for (const { first, rows, logits } of chunks(kernels, 'linearTokenLogProbs', hidden, weight, args.workspaceBytes)) {
    const part = (tensor: TensorView) => rowsOf(tensor, first, rows);
    const some = (tensor: TensorView | null | undefined) => (tensor ? part(tensor) : null);
    computeLogits(kernels, part(hidden), weight, logits);
    kernels.run(
      'tokenLogProbs',
      [logits, part(targets), null, part(logProbs), some(entropy), some(logSumExp)],
      [temperature, softcap],
    );
  }
}

/** Computes the logits of a chunk again, turns them into their gradients in place, and multiplies those. */
export function linearTokenLogProbsBackward(kernels: Kernels, args: Arguments<'linearTokenLogProbsBackward'>): void {
  const { hidden, weight, targets, logSumExp, entropy, gradLogProbs, gradEntropy, gradHidden, gradWeight } = args;
  for (const { first, rows, logits } of chunks(
    kernels,
    'linearTokenLogProbsBackward',
    hidden,
    weight,
    args.workspaceBytes,
  )) {
    const part = (tensor: TensorView) => rowsOf(tensor, first, rows);
    const some = (tensor: TensorView | null | undefined) => (tensor ? part(tensor) : null);
    computeLogits(kernels, part(hidden), weight, logits);
    kernels.run(
      'tokenLogProbsBackward',
      [logits, part(targets), part(logSumExp), some(entropy), part(gradLogProbs), some(gradEntropy), logits],
      [args.temperature, args.softcap, 0, 0],
    );
    for (const { begin, count } of vocabularyTiles(kernels, weight)) {
      const gradLogits = columnsOf(logits, begin, count);
      const accumulate = begin > 0 ? 1 : 0;
      if (gradHidden) {
        const tensors = [gradLogits, rowsOf(weight, begin, count), null, part(gradHidden)];
        kernels.run('matmul', tensors, [0, 0, accumulate]);
      }
      if (gradWeight) {
        kernels.run('matmul', [gradLogits, part(hidden), null, rowsOf(gradWeight, begin, count)], [1, 0, 1]);
      }
    }
  }
}

function computeLogits(kernels: Kernels, hidden: TensorView, weight: TensorView, logits: TensorView): void {
  for (const { begin, count } of vocabularyTiles(kernels, weight)) {
    const tensors = [hidden, rowsOf(weight, begin, count), null, columnsOf(logits, begin, count)];
    kernels.run('matmul', tensors, [0, 1, 0]);
  }
}

/** Chunks of rows with memory for their logits, of which every chunk uses the same. */
function* chunks(kernels: Kernels, operation: string, hidden: TensorView, weight: TensorView, workspaceBytes: number) {
  const total = hidden.shape[0]!;
  const vocabulary = weight.shape[0]!;
  const bytes = Math.min(workspaceBytes, kernels.bindingBytes);
  const rowBytes = vocabulary * bytesPerElement.f32;
  const most = Math.floor(bytes / Math.max(rowBytes, 1));
  if (total === 0) return;
  if (most < 1) {
    throw new KernelError(
      `${operation}: expected workspaceBytes of at least ${rowBytes}, the logits of one row, but received ${bytes}`,
    );
  }
  const all = kernels.scratch([Math.min(most, total), vocabulary], 'f32');
  for (let first = 0; first < total; first += most) {
    const rows = Math.min(most, total - first);
    yield { first, rows, logits: rowsOf(all, 0, rows) };
  }
}

/** Rows of the head, so many that a binding covers them, and the float32 gradient of as many. */
function* vocabularyTiles(kernels: Kernels, weight: TensorView): Generator<{ begin: number; count: number }> {
  const [vocabulary] = weight.shape as [number, number];
  const most = Math.max(1, Math.floor(kernels.bindingBytes / (weight.rowStride * bytesPerElement.f32)));
  for (let begin = 0; begin < vocabulary; begin += most) yield { begin, count: Math.min(most, vocabulary - begin) };
}
