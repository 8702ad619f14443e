import { InvalidArgumentError } from '../errors.js';
import { Scope, type Tensor } from '../tensor.js';
import { refuseUnknown, requireTensor } from './checks.js';
import { entropyThreshold } from './entropy-threshold.js';
import { checkTargets, vector } from './host-data.js';
import { type SoftmaxOptions, type Targets, type TokenLogProbs, tokenLogProbs } from './log-probs.js';
import { consumed, softmaxScalars } from './logits.js';
import type { PolicyLoss } from './policy-loss.js';
import {
  checkPolicyHostData,
  type PolicyBatch,
  type PolicyLossOptions,
  policyBatchKeys,
  policyOptionKeys,
  policyScalars,
  reportedMetrics,
} from './policy-options.js';
import { policyMetrics, policyStatisticCount } from './policy-statistics.js';

/** N tokens of B sequences, packed, over a vocabulary of V. */
export interface PolicyLossFromLogitsInputs extends PolicyBatch {
  /** [N,V] f32, bf16 or f16; rows may have a stride. */
  logits: Tensor;
  targets: Targets;
}

export interface PolicyLossFromLogitsOptions extends PolicyLossOptions, SoftmaxOptions {
  /** Overwrite the logits with their gradient. Default false. */
  inPlace?: boolean;
  /** [N,V], written instead of a new tensor. */
  gradLogits?: Tensor;
}

/** What `policyLossFromLogits` gives. `dispose()` frees all of it but the tensors that the caller gave. */
export interface PolicyLossFromLogits extends PolicyLoss, TokenLogProbs {
  /** [N,V]: d loss / d logits, in their dtype unless a tensor of another was given. */
  gradLogits: Tensor;
}

/**
 * `tokenLogProbs`, `policyLoss` and `tokenLogProbsBackward` in one call, to the same bits: a row of logits is read once
 * and its gradient written once. The row is read a second time where its gradient depends on other rows first: with
 * importanceSamplingLevel 'sequence', `offPolicyMaskThreshold`, a rolloutCorrection of sequences, 'vespo' and
 * `topEntropyQuantile`. Rows whose mask is 0 are not read: log-prob, entropy, log-sum-exp and gradients are 0 there.
 */
export function policyLossFromLogits(
  inputs: PolicyLossFromLogitsInputs,
  options: PolicyLossFromLogitsOptions = {},
): PolicyLossFromLogits {
  const name = 'policyLossFromLogits';
  refuseUnknown(`${name}: inputs`, inputs, ['logits', 'targets', ...policyBatchKeys]);
  const { temperature, softcap, inPlace = false, gradLogits: given, ...lossOptions } = options;
  refuseUnknown(`${name}: options`, lossOptions, policyOptionKeys);
  const { logits } = inputs;
  const { device, shape, dtype } = requireTensor(`${name}: logits`, logits, 2);
  const [count, vocab] = shape as [number, number];
  if (inPlace && given) throw new InvalidArgumentError(`${name}: gradLogits`, 'nothing with inPlace', given);
  const softmax = softmaxScalars(name, { temperature, softcap });
  const { topEntropyQuantile, ...scalars } = policyScalars(name, { ...inputs, entropy: logits }, lossOptions);
  checkTargets(`${name}: targets`, inputs.targets, vocab);
  checkPolicyHostData(name, inputs, count);
  const temporary = new Scope();
  const results = new Scope();
  try {
    const give = (key: keyof PolicyBatch | 'targets', type: 'f32' | 'i32') => {
      const value = inputs[key];
      return value ? vector(temporary, device, `${name}: ${key}`, value, type) : null;
    };
    const empty = (length: number) => results.track(device.empty([length]));
    const [targets, mask] = [give('targets', 'i32')!, give('mask', 'i32')];
    let threshold = inputs.entropyThreshold ?? null;
    if (topEntropyQuantile < 1) {
      const { entropy, ...rest } = tokenLogProbs(logits, targets, { ...softmax, mask });
      for (const tensor of [entropy, ...Object.values(rest)]) temporary.track(tensor);
      threshold = temporary.track(entropyThreshold(entropy, { mask, topEntropyQuantile }));
    }
    const outputs = {
      logProbs: empty(count),
      entropy: empty(count),
      logSumExp: empty(count),
      loss: empty(1),
      gradLogProbs: empty(count),
      gradEntropy: scalars.entropyCoefficient !== 0 ? empty(count) : null,
      statistics: empty(policyStatisticCount),
      gradLogits: inPlace ? logits : (given ?? results.track(device.empty(shape, dtype))),
    };
    device.run(name, {
      logits,
      targets,
      oldLogProbs: give('oldLogProbs', 'f32'),
      refLogProbs: give('refLogProbs', 'f32'),
      rolloutLogProbs: give('rolloutLogProbs', 'f32'),
      entropyThreshold: threshold,
      advantages: give('advantages', 'f32')!,
      mask,
      sequenceOffsets: give('sequenceOffsets', 'i32')!,
      ...outputs,
      ...softmax,
      ...scalars,
    });
    if (inPlace) consumed.add(logits);
    else consumed.delete(logits);
    const reported = reportedMetrics(inputs, lossOptions, { entropy: true, threshold: threshold !== null });
    const metrics = { read: async () => policyMetrics(await outputs.statistics.read(), reported) };
    return { ...outputs, reported, metrics, dispose: () => results.dispose() };
  } catch (error) {
    results.dispose();
    throw error;
  } finally {
    temporary.dispose();
  }
}
