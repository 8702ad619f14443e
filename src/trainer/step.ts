import { type PolicyLoss, type PolicyLossOptions, policyLoss, readPolicyMetrics } from '../kernels/policy-loss.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { TokenScores } from '../models/token-scores.js';
import { Scope, type Tensor } from '../tensor.js';
import type { Cloning } from './cloning.js';
import type { GRPOConfig } from './config.js';
import type { AdamW } from './optimizer.js';
import { lossMask, type Rollout, takesPart } from './rollout.js';

export interface UpdateResult {
  loss: number;
  /** Global norm of the gradients before they were scaled down. */
  gradNorm: number;
  metrics: Record<string, number>;
  /** Of the demonstrations that were mixed in: prompts included, and those that carry loss. */
  cloneTokens: { all: number; completions: number };
}

export interface Policies {
  policy: CausalLM;
  /** There when beta > 0. */
  reference: CausalLM | null;
}

/** Rollouts that run through the model together, with the tokens of theirs that count. */
interface MicroBatch {
  rollouts: readonly Rollout[];
  /** A value a token; null when all count. */
  mask: Int32Array | null;
  tokens: number;
}

/**
 * One optimiser update. Every rollout has its advantage; each array of `batches` runs through the model at once, and all
 * share the denominators of the whole update, so that its gradient does not depend on how it was cut (but for lossType
 * bnpo, which is defined by its micro-batches, and topEntropyQuantile, which is taken over them). With `cloning` the
 * cross-entropy of its next demonstrations is added. Everything is queued first; the values are read once, at the end.
 */
export async function updatePolicy(
  policies: Policies,
  optimizer: AdamW,
  batches: readonly (readonly Rollout[])[],
  config: GRPOConfig,
  learningRate: number,
  cloning: Cloning | null = null,
): Promise<UpdateResult> {
  const scope = new Scope();
  const clones = cloning?.next() ?? [];
  try {
    const microBatches = batches
      .map((rollouts) => prepare(rollouts.filter(takesPart), config.maskTruncatedCompletions))
      .filter((batch) => batch.rollouts.length > 0);
    const tokens = Math.max(1, sum(microBatches.map((batch) => batch.tokens)));
    const sequences = Math.max(1, sum(microBatches.map((batch) => batch.rollouts.length)));
    const losses = microBatches.map((batch) => {
      const own = Math.max(1, batch.tokens) * microBatches.length;
      const denominators = { tokens: config.lossType === 'bnpo' ? own : tokens, sequences };
      return backward(policies, batch, { ...lossOptions(config), denominators }, config, scope);
    });
    const cloned = cloning?.backward(clones, scope);
    const norm = scope.track(optimizer.update(learningRate));
    const [gradNorm, metrics, sftLoss, ...parts] = await Promise.all([
      readNumber(norm),
      readPolicyMetrics(losses),
      cloned?.read(),
      ...losses.map((loss) => readNumber(loss.loss)),
    ]);
    if (!optimizer.applied(gradNorm)) metrics.skipped_updates = 1;
    if (sftLoss !== undefined) metrics.sft_loss = sftLoss;
    const loss = sum(parts) + config.sftCoefficient * (sftLoss ?? 0);
    const cloneTokens = {
      all: sum(clones.map(({ promptIds, completionIds }) => promptIds.length + completionIds.length)),
      completions: sum(clones.map(({ completionIds }) => completionIds.length)),
    };
    return { loss, gradNorm, metrics, cloneTokens };
  } finally {
    scope.dispose();
  }
}

/** The options of the policy loss, under the names of the kernel. */
export function lossOptions(c: GRPOConfig): PolicyLossOptions {
  return {
    lossType: c.lossType,
    importanceSamplingLevel: c.importanceSamplingLevel,
    epsilon: c.epsilon,
    epsilonHigh: c.epsilonHigh ?? c.epsilon,
    delta: c.delta ?? undefined,
    beta: c.beta,
    klEstimator: c.klEstimator,
    biasCorrectedKl: c.useBiasCorrectionKl,
    entropyCoefficient: c.entropyCoefficient,
    topEntropyQuantile: c.topEntropyQuantile,
    offPolicyMaskThreshold: c.offPolicyMaskThreshold ?? undefined,
    sapoTemperatures: { positive: c.sapoTemperaturePos, negative: c.sapoTemperatureNeg },
    vespo: {
      kPositive: c.vespoKPos,
      lambdaPositive: c.vespoLambdaPos,
      kNegative: c.vespoKNeg,
      lambdaNegative: c.vespoLambdaNeg,
    },
    rolloutCorrection: c.rolloutCorrection
      ? {
          mode: c.rolloutCorrection,
          cap: c.rolloutCorrectionCap,
          min: c.rolloutCorrectionMin,
          geometric: c.rolloutCorrectionGeometric,
        }
      : undefined,
    maxCompletionLength: c.maxCompletionLength,
  };
}

/** Adds the gradients of a micro-batch; the tensors of its loss live as long as `scope`. */
function backward(
  { policy, reference }: Policies,
  { rollouts, mask }: MicroBatch,
  options: PolicyLossOptions,
  config: GRPOConfig,
  scope: Scope,
): PolicyLoss {
  const { temperature, logitsWorkspaceBytes: workspaceBytes, gradientCheckpointing } = config;
  const common = { temperature, workspaceBytes };
  const scores = policy.score(rollouts, { ...common, gradients: true, gradientCheckpointing, entropy: true });
  let referenceScores: TokenScores | null = null;
  try {
    const refLogProbs = packed(rollouts, 'refLogProbs');
    if (reference && !refLogProbs) referenceScores = reference.score(rollouts, common);
    const loss = policyLoss(
      {
        logProbs: scores.logProbs,
        entropy: scores.entropy,
        oldLogProbs: packed(rollouts, 'oldLogProbs'),
        refLogProbs: refLogProbs ?? referenceScores?.logProbs,
        rolloutLogProbs: packed(rollouts, 'rolloutLogProbs'),
        advantages: Float32Array.from(rollouts, (rollout) => rollout.advantage!),
        mask,
        sequenceOffsets: scores.sequenceOffsets,
      },
      options,
    );
    for (const tensor of [loss.loss, loss.gradLogProbs, loss.gradEntropy, loss.statistics]) {
      if (tensor) scope.track(tensor);
    }
    scores.backward(loss.gradLogProbs, loss.gradEntropy);
    return loss;
  } finally {
    referenceScores?.dispose();
    scores.dispose();
  }
}

function prepare(rollouts: readonly Rollout[], maskTruncated: boolean): MicroBatch {
  const masks = rollouts.map((rollout) => lossMask(rollout, maskTruncated));
  const count = sum(rollouts.map((rollout) => rollout.completionIds.length));
  if (masks.every((mask) => mask === null)) return { rollouts, mask: null, tokens: count };
  const whole = (rollout: Rollout) => new Int32Array(rollout.completionIds.length).fill(1);
  const mask = Int32Array.from(masks.flatMap((part, i) => [...(part ?? whole(rollouts[i]!))]));
  return { rollouts, mask, tokens: sum([...mask]) };
}

/** One value a token of the batch, or null when the rollouts do not bring them. */
function packed(
  rollouts: readonly Rollout[],
  key: 'oldLogProbs' | 'refLogProbs' | 'rolloutLogProbs',
): Float32Array | null {
  if (!rollouts[0]![key]) return null;
  const out = new Float32Array(sum(rollouts.map((rollout) => rollout.completionIds.length)));
  let offset = 0;
  for (const rollout of rollouts) {
    out.set(rollout[key]!, offset);
    offset += rollout.completionIds.length;
  }
  return out;
}

async function readNumber(tensor: Tensor): Promise<number> {
  return (await tensor.read())[0]!;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
