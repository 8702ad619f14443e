import { KernelError } from '../../../errors.js';
import { policyStatisticCount } from '../../../kernels/policy-statistics.js';
import { checkOffsets } from './check-elements.js';
import type { Arguments, Kernels } from './dispatch.js';
import { optional } from './optional.js';

/** Enumerated scalars, as kernels/include/grpo.h numbers them. */
const lossTypes = { luspo: 4, dr_grpo: 3, cispo: 5, vespo: 7 } as const;
const tokenMask = 2;
const sequenceMask = 4;
/** Floats that the passes keep of an active token. */
const tokenValues = 8;
/** Loss and acted-on entropy before the statistics of a sequence. */
const resultCount = policyStatisticCount + 2;

/** A binding is scarce: what a token's loss reads is packed first, then each sequence is worked on, then all are joined. */
export function policyLoss(kernels: Kernels, args: Arguments<'policyLoss'>): void {
  const { logProbs, oldLogProbs, refLogProbs, rolloutLogProbs, entropy, entropyThreshold } = args;
  const { advantages, mask, gradEntropy } = args;
  const offsets = args.sequenceOffsets;
  const tokens = logProbs.shape[0]!;
  const sequences = offsets.shape[0]! - 1;
  checkPolicyLoss(args, tokens, sequences);
  checkOffsets(kernels, 'policyLoss: sequenceOffsets', offsets, tokens);

  const order = kernels.scratch([tokens + sequences], 'i32');
  const totals = kernels.scratch([3], 'f32');
  const values = kernels.scratch([Math.max(tokens, 1), tokenValues], 'f32');
  const results = kernels.scratch([Math.max(sequences, 1), resultCount], 'f32');
  const sizes = { tokens, sequences };
  const { gradLogProbs } = args;

  kernels.dispatch({
    sources: ['policy_loss_order'],
    constants: { HAS_MASK: mask != null, HAS_GRAD_ENTROPY: gradEntropy != null },
    parameters: { u32: sizes },
    tensors: { offsets, order, gradLogProbs, mask: mask ?? 'no i32', ...optional({ gradEntropy }) },
    writes: ['order', 'gradLogProbs', 'gradEntropy'],
    workgroups: sequences,
  });
  kernels.dispatch({
    sources: ['policy_loss_totals'],
    constants: { HAS_THRESHOLD: entropyThreshold != null },
    parameters: { u32: sizes },
    tensors: { totals, order, ...optional({ threshold: entropyThreshold }) },
    writes: ['totals'],
    workgroups: 1,
  });
  kernels.dispatch({
    sources: ['functions', 'policy_loss_pack_log_probs', 'policy_loss_pack'],
    constants: {
      HAS_OLD: oldLogProbs != null,
      HAS_REFERENCE: refLogProbs != null,
      HAS_ROLLOUT: rolloutLogProbs != null,
    },
    parameters: { u32: sizes },
    tensors: { offsets, order, values, logProbs, ...optional({ oldLogProbs, refLogProbs, rolloutLogProbs }) },
    writes: ['values'],
    workgroups: sequences,
  });
  kernels.dispatch({
    sources: ['policy_loss_pack_advantages', 'policy_loss_pack'],
    constants: { HAS_ENTROPY: entropy != null, SEQUENCE_ADVANTAGES: advantages.shape[0] === sequences },
    parameters: { u32: sizes },
    tensors: { offsets, order, values, advantages, ...optional({ entropy }) },
    writes: ['values'],
    workgroups: sequences,
  });

  const bounded = args.lossType <= lossTypes.luspo;
  const high = bounded ? 1 + args.epsilonHigh : args.lossType === lossTypes.cispo ? args.epsilonHigh : 0;
  const denominators = {
    entropyCoefficient: args.entropyCoefficient,
    tokenDenominator: args.tokenDenominator,
  };
  kernels.dispatch({
    sources: ['functions', 'policy_objectives', 'policy_loss'],
    reductions: { sums: 'vec4f', extremes: 'vec3f' },
    constants: { THREADS: 64, LANES: 64 },
    // As parameters: a shader compiled for each setting would take longer than it saves.
    parameters: {
      u32: {
        ...sizes,
        lossType: args.lossType,
        klEstimator: args.klEstimator,
        correction: args.rolloutCorrection,
        ...flags({
          sequenceLevel: args.sequenceLevel !== 0,
          hasDelta: Number.isFinite(args.delta),
          hasHigh: bounded || args.lossType === lossTypes.cispo,
          biasCorrectedKl: args.biasCorrectedKl !== 0,
          offPolicyMask: Number.isFinite(args.offPolicyMaskThreshold),
          highEntropy: entropyThreshold != null,
          geometric: args.rolloutGeometric !== 0,
          hasEntropy: entropy != null,
          hasReference: refLogProbs != null,
          hasRollout: rolloutLogProbs != null,
        }),
      },
      f32: {
        low: bounded ? 1 - args.epsilon : -1,
        high,
        delta: Number.isFinite(args.delta) ? args.delta : 0,
        beta: args.beta,
        offPolicyThreshold: Number.isFinite(args.offPolicyMaskThreshold) ? args.offPolicyMaskThreshold : 0,
        sapoPositive: args.sapoTemperaturePositive,
        sapoNegative: args.sapoTemperatureNegative,
        vespoKPositive: args.vespoKPositive,
        vespoLambdaPositive: args.vespoLambdaPositive,
        vespoKNegative: args.vespoKNegative,
        vespoLambdaNegative: args.vespoLambdaNegative,
        correctionMin: args.rolloutMin,
        correctionCap: Number.isFinite(args.rolloutCap) ? args.rolloutCap : largestFloat,
        logCorrectionMin: args.rolloutMin > 0 ? Math.log(args.rolloutMin) : -largestFloat,
        logCorrectionCap: Number.isFinite(args.rolloutCap) ? Math.log(args.rolloutCap) : largestFloat,
        maxCompletionLength: args.maxCompletionLength,
        sequenceDenominator: args.sequenceDenominator > 0 ? args.sequenceDenominator : Math.max(sequences, 1),
        ...denominators,
      },
    },
    tensors: { offsets, order, values, totals, results, gradLogProbs, ...optional({ gradEntropy }) },
    writes: ['results', 'gradLogProbs', 'gradEntropy'],
    workgroups: sequences,
  });
  kernels.dispatch({
    sources: ['policy_loss_join'],
    parameters: { u32: { sequences }, f32: { ...denominators, infinity: Number.POSITIVE_INFINITY } },
    tensors: { results, totals, loss: args.loss, statistics: args.statistics },
    writes: ['loss', 'statistics'],
    workgroups: 1,
  });
}

function flags<Name extends string>(values: Record<Name, boolean>): Record<Name, number> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)])) as never;
}

const largestFloat = 3.4028234e38;

function checkPolicyLoss(args: Arguments<'policyLoss'>, tokens: number, sequences: number): void {
  const refuse = (text: string): never => {
    throw new KernelError(`policyLoss: ${text}`);
  };
  const { advantages, statistics, lossType, rolloutCorrection: correction } = args;
  if (sequences < 0) refuse('expected sequenceOffsets of at least one entry');
  if (advantages.shape[0] !== sequences && advantages.shape[0] !== tokens) {
    refuse('expected an advantage a sequence or a token');
  }
  if (statistics.shape[0] !== policyStatisticCount) refuse('statistics has the wrong length');
  if (!(lossType >= 0 && lossType <= lossTypes.vespo)) refuse('unknown lossType');
  if (!(args.klEstimator >= 0 && args.klEstimator <= 2)) refuse('unknown klEstimator');
  if (!(correction >= 0 && correction <= sequenceMask)) refuse('unknown rolloutCorrection');
  if (args.beta !== 0 && !args.refLogProbs) refuse('beta needs refLogProbs');
  if (correction !== 0 && !args.rolloutLogProbs) refuse('rolloutCorrection needs rolloutLogProbs');
  if (args.entropyCoefficient !== 0 && !(args.entropy && args.gradEntropy)) {
    refuse('entropyCoefficient needs entropy and gradEntropy');
  }
  if (args.entropyThreshold && !args.entropy) refuse('entropyThreshold needs entropy');
  if (lossType === lossTypes.dr_grpo && !(args.maxCompletionLength > 0)) refuse('dr_grpo needs maxCompletionLength');
  if (lossType === lossTypes.vespo && correction > tokenMask) {
    refuse('vespo takes a rolloutCorrection of tokens only');
  }
}
