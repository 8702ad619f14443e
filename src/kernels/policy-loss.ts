import { Scope, type Tensor } from '../tensor.js';
import { refuseUnknown, requireTensor } from './checks.js';
import { entropyThreshold } from './entropy-threshold.js';
import { vector } from './host-data.js';
import {
  checkPolicyHostData,
  type PolicyBatch,
  type PolicyEntropy,
  type PolicyLossOptions,
  policyBatchKeys,
  policyOptionKeys,
  policyScalars,
  reportedMetrics,
} from './policy-options.js';
import {
  mergePolicyStatistics,
  policyMetrics,
  policyStatisticCount,
  type ReportedMetrics,
} from './policy-statistics.js';

export {
  type KlEstimator,
  klEstimators,
  type LossType,
  lossTypes,
  type PolicyBatch,
  type PolicyEntropy,
  type PolicyLossOptions,
  type RolloutCorrectionMode,
  rolloutCorrections,
} from './policy-options.js';

/** N tokens of B sequences, packed: one sequence after another. */
export interface PolicyLossInputs extends PolicyBatch, PolicyEntropy {
  /** [N] f32: log-probs under the policy. */
  logProbs: Tensor;
}

/** What `policyLoss` gives. `dispose()` frees all its tensors; each may also be disposed of alone. */
export interface PolicyLoss {
  /** [1] f32. */
  loss: Tensor;
  /** [N] f32: d loss / d logProbs. */
  gradLogProbs: Tensor;
  /** [N] f32: d loss / d entropy; null without an entropy bonus. */
  gradEntropy: Tensor | null;
  /** Sums and extremes that add up over calls and ranks: see `mergePolicyStatistics`. */
  statistics: Tensor;
  /** Which metrics the statistics hold. */
  reported: ReportedMetrics;
  metrics: { read(): Promise<Record<string, number>> };
  dispose(): void;
}

/**
 * The loss of a batch, its gradients with respect to log-probs and entropies, and its metrics, in one pass over the
 * tokens. Queued like every operation; nothing waits.
 */
export function policyLoss(inputs: PolicyLossInputs, options: PolicyLossOptions = {}): PolicyLoss {
  const name = 'policyLoss';
  refuseUnknown(`${name}: inputs`, inputs, ['logProbs', 'entropy', ...policyBatchKeys]);
  refuseUnknown(`${name}: options`, options, policyOptionKeys);
  const { topEntropyQuantile, ...scalars } = policyScalars(name, inputs, options);
  const { device, size: count } = requireTensor(`${name}: logProbs`, inputs.logProbs, 1);
  checkPolicyHostData(name, inputs, count);
  const temporary = new Scope();
  const results = new Scope();
  try {
    const give = (key: keyof PolicyLossInputs, dtype: 'f32' | 'i32') => {
      const value = inputs[key];
      return value ? vector(temporary, device, `${name}: ${key}`, value, dtype) : null;
    };
    const [entropy, mask] = [give('entropy', 'f32'), give('mask', 'i32')];
    const threshold =
      topEntropyQuantile < 1
        ? temporary.track(entropyThreshold(entropy!, { mask, topEntropyQuantile }))
        : (inputs.entropyThreshold ?? null);
    const loss = results.track(device.empty([1]));
    const gradLogProbs = results.track(device.empty([count]));
    const gradEntropy = scalars.entropyCoefficient !== 0 ? results.track(device.empty([count])) : null;
    const statistics = results.track(device.empty([policyStatisticCount]));
    device.run(name, {
      logProbs: inputs.logProbs,
      oldLogProbs: give('oldLogProbs', 'f32'),
      refLogProbs: give('refLogProbs', 'f32'),
      rolloutLogProbs: give('rolloutLogProbs', 'f32'),
      entropy,
      entropyThreshold: threshold,
      advantages: give('advantages', 'f32')!,
      mask,
      sequenceOffsets: give('sequenceOffsets', 'i32')!,
      loss,
      gradLogProbs,
      gradEntropy,
      statistics,
      ...scalars,
    });
    const reported = reportedMetrics(inputs, options, { entropy: entropy !== null, threshold: threshold !== null });
    const metrics = { read: async () => policyMetrics(await statistics.read(), reported) };
    return { loss, gradLogProbs, gradEntropy, statistics, reported, metrics, dispose: () => results.dispose() };
  } catch (error) {
    results.dispose();
    throw error;
  } finally {
    temporary.dispose();
  }
}

/** Metrics of several micro-batches of one update as those of one batch. All must have been given the same options. */
export async function readPolicyMetrics(
  losses: readonly Pick<PolicyLoss, 'statistics' | 'reported'>[],
): Promise<Record<string, number>> {
  if (losses.length === 0) return {};
  const parts = await Promise.all(losses.map((loss) => loss.statistics.read()));
  return policyMetrics(mergePolicyStatistics(parts), losses[0]!.reported);
}
