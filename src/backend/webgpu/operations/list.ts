import type { OperationName } from '../../backend.js';
import { groupAdvantages } from './advantages.js';
import type { Arguments, Kernels } from './dispatch.js';
import { entropyThreshold } from './entropy-threshold.js';
import { decoderOperations } from './index.js';
import { linearTokenLogProbs, linearTokenLogProbsBackward } from './linear-log-probs.js';
import * as logProbs from './log-probs.js';
import { add, copy, fill } from './memory.js';
import { policyLoss } from './policy-loss.js';
import { policyLossFromLogits } from './policy-loss-from-logits.js';

/** How each operation of the list runs. */
export const webgpuOperations: {
  readonly [Name in OperationName]: (kernels: Kernels, args: Arguments<Name>) => void;
} = {
  fill,
  copy,
  add,
  ...decoderOperations,
  ...logProbs,
  linearTokenLogProbs,
  linearTokenLogProbsBackward,
  groupAdvantages,
  entropyThreshold,
  policyLoss,
  policyLossFromLogits,
};
