/** The inputs and options that the policy losses share, and their checks. */
import { InvalidArgumentError } from '../errors.js';
import type { Tensor } from '../tensor.js';
import {
  refuseUnknown,
  requireChoice,
  requireFinite,
  requireNonNegative,
  requirePositive,
  requireShare,
  requireTensor,
} from './checks.js';
import { checkMask, checkOffsets, type HostNumbers, isHostData } from './host-data.js';
import type { ReportedMetrics } from './policy-statistics.js';

/** In the order of the C API, as the two lists below. */
export const lossTypes = ['grpo', 'bnpo', 'dapo', 'dr_grpo', 'luspo', 'cispo', 'sapo', 'vespo'] as const;
export const klEstimators = ['k1', 'k2', 'k3'] as const;
export const rolloutCorrections = [
  'none',
  'token-truncate',
  'token-mask',
  'sequence-truncate',
  'sequence-mask',
] as const;
export type LossType = (typeof lossTypes)[number];
export type KlEstimator = (typeof klEstimators)[number];
export type RolloutCorrectionMode = Exclude<(typeof rolloutCorrections)[number], 'none'>;

/** What a loss of N tokens of B sequences is given beside their log-probs. Packed: one sequence after another. */
export interface PolicyBatch {
  /** [N]: log-probs under the policy that the update started from. Left out: the policy's own, the ratio is 1. */
  oldLogProbs?: Tensor | HostNumbers | null;
  /** [N]: under the reference policy. Needed for beta > 0; without beta they give the `kl` metric. */
  refLogProbs?: Tensor | HostNumbers | null;
  /** [N]: as the sampler reported them; NaN where it did not. */
  rolloutLogProbs?: Tensor | HostNumbers | null;
  /**
   * [2] f32 from `entropyThreshold`: the objective acts on tokens of at least this entropy. In place of the option
   * `topEntropyQuantile`, where the share is one of the tokens of several calls.
   */
  entropyThreshold?: Tensor | null;
  /** [B], one a sequence, or [N], one a token. When B = N they are taken as those of sequences. */
  advantages: Tensor | HostNumbers;
  /** [N] i32, 1 for tokens that count and 0 for those that do not, whatever their other values. Left out: all count. */
  mask?: Tensor | HostNumbers | null;
  /** [B+1] i32: sequence b has the tokens sequenceOffsets[b] up to sequenceOffsets[b+1]. */
  sequenceOffsets: Tensor | HostNumbers;
}

export interface PolicyEntropy {
  /** [N] f32: entropies of the policy. Needed for the entropy bonus and the high-entropy mask. */
  entropy?: Tensor | HostNumbers | null;
}

/** Formulas, sources and the settings of each paper: docs/kernels.md, docs/numerics.md (section 4), docs/paper-index.md. */
export interface PolicyLossOptions {
  /** Default 'dapo'. */
  lossType?: LossType;
  /** Whether the ratio is a token's or the geometric mean over its sequence (GSPO). Default 'token'. */
  importanceSamplingLevel?: 'token' | 'sequence';
  /** The ratio's lower bound is 1 - epsilon. Default 0.2. */
  epsilon?: number;
  /** The ratio's upper bound is 1 + epsilonHigh; for cispo epsilonHigh is the cap itself. Default: epsilon. */
  epsilonHigh?: number;
  /** Upper bound of the ratio in the unclipped term, which limits the loss of negative advantages. Default: none. */
  delta?: number | null;
  /** Coefficient of the KL to the reference. Default 0. */
  beta?: number;
  /** Default 'k3'. */
  klEstimator?: KlEstimator;
  /** Multiply the KL by the ratio, gradient included. Default false. */
  biasCorrectedKl?: boolean;
  /** Coefficient of the entropy bonus. Default 0. */
  entropyCoefficient?: number;
  /** Share of the active tokens of this call, those of highest entropy, that the objective acts on. Default 1. */
  topEntropyQuantile?: number;
  /** Drop sequences of negative advantage whose mean(rollout - lp), without rollout mean(old - lp), exceeds this. */
  offPolicyMaskThreshold?: number | null;
  /** Of the sigmoid gate of sapo, for positive and for other advantages. Default 1 and 1.05. */
  sapoTemperatures?: { positive: number; negative: number };
  /** Powers and decay rates of vespo's weight. Default 2, 3, 3, 2. */
  vespo?: { kPositive: number; lambdaPositive: number; kNegative: number; lambdaNegative: number };
  /**
   * Importance weights from the sampler's policy to the old one, at most `cap` (default 3) and at least `min` (default
   * 0): truncated to that range, or set to 0 outside of it. Of tokens, or of sequences: the product over the tokens, or
   * their geometric mean.
   */
  rolloutCorrection?: { mode: RolloutCorrectionMode; cap?: number; min?: number; geometric?: boolean } | null;
  /** Needed by dr_grpo: the constant that stands for a sequence's length. */
  maxCompletionLength?: number;
  /**
   * Active tokens and sequences of the whole optimiser batch, over all micro-batches and ranks. Default: this call's.
   * The entropy bonus divides by the tokens whatever the loss type.
   */
  denominators?: { tokens?: number; sequences?: number };
}

export const policyBatchKeys: readonly string[] = [
  'oldLogProbs',
  'refLogProbs',
  'rolloutLogProbs',
  'entropyThreshold',
  'advantages',
  'mask',
  'sequenceOffsets',
];
export const policyOptionKeys: readonly string[] = [
  'lossType',
  'importanceSamplingLevel',
  'epsilon',
  'epsilonHigh',
  'delta',
  'beta',
  'klEstimator',
  'biasCorrectedKl',
  'entropyCoefficient',
  'topEntropyQuantile',
  'offPolicyMaskThreshold',
  'sapoTemperatures',
  'vespo',
  'rolloutCorrection',
  'maxCompletionLength',
  'denominators',
];

/** `operation` is the name that errors begin with, here and below. */
export function checkPolicyHostData(operation: string, inputs: PolicyBatch, count: number): void {
  checkOffsets(`${operation}: sequenceOffsets`, inputs.sequenceOffsets, count);
  checkMask(`${operation}: mask`, inputs.mask);
  const offsets = inputs.sequenceOffsets;
  const sequences = (isHostData(offsets) ? offsets.length : offsets.size) - 1;
  const { advantages } = inputs;
  const given = isHostData(advantages) ? advantages.length : advantages?.size;
  if (given !== sequences && given !== count) {
    const expected = `${sequences} (one a sequence) or ${count} (one a token) values`;
    throw new InvalidArgumentError(`${operation}: advantages`, expected, given);
  }
}

/** The scalars of the operation and topEntropyQuantile, from options that fit each other and the inputs. */
export function policyScalars(operation: string, inputs: PolicyBatch & PolicyEntropy, options: PolicyLossOptions) {
  const name = (key: string) => `${operation}: ${key}`;
  const {
    lossType = 'dapo',
    importanceSamplingLevel = 'token',
    epsilon = 0.2,
    beta = 0,
    klEstimator = 'k3',
    biasCorrectedKl = false,
    entropyCoefficient = 0,
    topEntropyQuantile = 1,
    offPolicyMaskThreshold,
    sapoTemperatures = { positive: 1, negative: 1.05 },
    vespo = { kPositive: 2, lambdaPositive: 3, kNegative: 3, lambdaNegative: 2 },
    maxCompletionLength,
    denominators = {},
  } = options;
  refuseUnknown(name('sapoTemperatures'), sapoTemperatures, ['positive', 'negative']);
  refuseUnknown(name('vespo'), vespo, ['kPositive', 'lambdaPositive', 'kNegative', 'lambdaNegative']);
  refuseUnknown(name('denominators'), denominators, ['tokens', 'sequences']);
  const needs = (option: string, input: keyof (PolicyBatch & PolicyEntropy)) => {
    if (!inputs[input]) throw new InvalidArgumentError(name(input), `a tensor, which ${option} needs,`, inputs[input]);
  };
  if (beta !== 0) needs('beta', 'refLogProbs');
  if (entropyCoefficient !== 0) needs('entropyCoefficient', 'entropy');
  requireShare(name('topEntropyQuantile'), topEntropyQuantile);
  if (topEntropyQuantile !== 1) needs('topEntropyQuantile', 'entropy');
  if (inputs.entropyThreshold) {
    requireTensor(name('entropyThreshold'), inputs.entropyThreshold, 1);
    needs('entropyThreshold', 'entropy');
    if (topEntropyQuantile !== 1) {
      throw new InvalidArgumentError(name('topEntropyQuantile'), '1 beside entropyThreshold', topEntropyQuantile);
    }
  }
  if (lossType === 'cispo' && options.epsilonHigh === undefined) {
    throw new InvalidArgumentError(name('epsilonHigh'), 'the cap of the ratio, which cispo needs,', undefined);
  }
  if (lossType === 'dr_grpo' && maxCompletionLength === undefined) {
    throw new InvalidArgumentError(name('maxCompletionLength'), 'a length, which dr_grpo needs,', undefined);
  }
  if (lossType === 'vespo' && importanceSamplingLevel === 'sequence') {
    const expected = `'token' with vespo, whose weight is the sequence's already,`;
    throw new InvalidArgumentError(name('importanceSamplingLevel'), expected, importanceSamplingLevel);
  }
  const correction = checkCorrection(operation, inputs, options, lossType);
  return {
    lossType: requireChoice(name('lossType'), lossTypes, lossType),
    sequenceLevel: requireChoice(name('importanceSamplingLevel'), ['token', 'sequence'], importanceSamplingLevel),
    epsilon: requireNonNegative(name('epsilon'), epsilon),
    epsilonHigh: requireNonNegative(name('epsilonHigh'), options.epsilonHigh ?? epsilon),
    delta: checkDelta(operation, options, lossType),
    beta: requireNonNegative(name('beta'), beta),
    klEstimator: requireChoice(name('klEstimator'), klEstimators, klEstimator),
    biasCorrectedKl: biasCorrectedKl ? 1 : 0,
    entropyCoefficient: requireFinite(name('entropyCoefficient'), entropyCoefficient),
    topEntropyQuantile,
    offPolicyMaskThreshold:
      offPolicyMaskThreshold === undefined || offPolicyMaskThreshold === null
        ? Infinity
        : requireFinite(name('offPolicyMaskThreshold'), offPolicyMaskThreshold),
    sapoTemperaturePositive: requirePositive(name('sapoTemperatures.positive'), sapoTemperatures.positive),
    sapoTemperatureNegative: requirePositive(name('sapoTemperatures.negative'), sapoTemperatures.negative),
    vespoKPositive: requireNonNegative(name('vespo.kPositive'), vespo.kPositive),
    vespoLambdaPositive: requireNonNegative(name('vespo.lambdaPositive'), vespo.lambdaPositive),
    vespoKNegative: requireNonNegative(name('vespo.kNegative'), vespo.kNegative),
    vespoLambdaNegative: requireNonNegative(name('vespo.lambdaNegative'), vespo.lambdaNegative),
    ...correction,
    maxCompletionLength:
      maxCompletionLength === undefined ? 0 : requirePositive(name('maxCompletionLength'), maxCompletionLength),
    tokenDenominator: checkDenominator(operation, 'tokens', denominators.tokens),
    sequenceDenominator: checkDenominator(operation, 'sequences', denominators.sequences),
  };
}

function checkDelta(operation: string, { delta }: PolicyLossOptions, lossType: LossType): number {
  if (delta === undefined || delta === null) return Infinity;
  if (['cispo', 'sapo', 'vespo'].includes(lossType)) {
    throw new InvalidArgumentError(
      `${operation}: delta`,
      `nothing with ${lossType}, which has no clipped term,`,
      delta,
    );
  }
  return requirePositive(`${operation}: delta`, delta);
}

function checkDenominator(operation: string, key: string, value: number | undefined): number {
  return value === undefined ? 0 : requirePositive(`${operation}: denominators.${key}`, value);
}

function checkCorrection(
  operation: string,
  inputs: PolicyBatch,
  { rolloutCorrection }: PolicyLossOptions,
  lossType: LossType,
) {
  if (!rolloutCorrection) return { rolloutCorrection: 0, rolloutCap: Infinity, rolloutMin: 0, rolloutGeometric: 0 };
  const name = (key: string) => `${operation}: rolloutCorrection.${key}`;
  refuseUnknown(`${operation}: rolloutCorrection`, rolloutCorrection, ['mode', 'cap', 'min', 'geometric']);
  const { mode, cap = 3, min = 0, geometric = false } = rolloutCorrection;
  const choice = requireChoice(name('mode'), rolloutCorrections, mode);
  if (!inputs.rolloutLogProbs) {
    throw new InvalidArgumentError(`${operation}: rolloutLogProbs`, 'a tensor, which rolloutCorrection needs,', null);
  }
  if (geometric && mode.startsWith('token')) {
    throw new InvalidArgumentError(name('geometric'), `false with ${mode}, which has one weight a token,`, geometric);
  }
  if (lossType === 'vespo' && mode.startsWith('sequence')) {
    throw new InvalidArgumentError(name('mode'), 'a token mode with vespo', mode);
  }
  requireNonNegative(name('min'), min);
  if (!(cap >= min && cap > 0)) throw new InvalidArgumentError(name('cap'), `a number above 0 and min (${min})`, cap);
  return { rolloutCorrection: choice, rolloutCap: cap, rolloutMin: min, rolloutGeometric: geometric ? 1 : 0 };
}

/** Which metrics the statistics of a loss hold. `entropy` and `threshold`: whether there are such. */
export function reportedMetrics(
  inputs: PolicyBatch,
  { lossType = 'dapo', offPolicyMaskThreshold }: PolicyLossOptions,
  { entropy, threshold }: { entropy: boolean; threshold: boolean },
): ReportedMetrics {
  return {
    clipping: lossType !== 'sapo' && lossType !== 'vespo',
    kl: Boolean(inputs.refLogProbs),
    entropy,
    offPolicyMask: offPolicyMaskThreshold !== undefined && offPolicyMaskThreshold !== null,
    highEntropyMask: threshold,
    phi: lossType === 'vespo',
    rollout: Boolean(inputs.rolloutLogProbs),
  };
}
