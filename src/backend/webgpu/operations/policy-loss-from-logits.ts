import type { Arguments, Kernels } from './dispatch.js';
import { tokenLogProbs, tokenLogProbsBackward } from './log-probs.js';
import { policyLoss } from './policy-loss.js';

/** The three operations: a workgroup's memory does not hold a row. */
export function policyLossFromLogits(kernels: Kernels, args: Arguments<'policyLossFromLogits'>): void {
  tokenLogProbs(kernels, args);
  policyLoss(kernels, args);
  tokenLogProbsBackward(kernels, { ...args, vocabStart: 0, vocabSize: 0 });
}
