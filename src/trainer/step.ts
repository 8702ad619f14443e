import type { ProcessGroup } from '../distributed/process-group.js';
import { type PolicyLoss, type PolicyLossInputs, type PolicyLossOptions, policyLoss } from '../kernels/policy-loss.js';
import { mergePolicyStatistics, policyMetrics, type ReportedMetrics } from '../kernels/policy-statistics.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { ScoreOptions, TokenScores } from '../models/token-scores.js';
import { Scope, type Tensor } from '../tensor.js';
import { microBatches, tokenShare } from './balance.js';
import type { Cloning } from './cloning.js';
import type { GRPOConfig } from './config.js';
import { highEntropyThreshold, type ScoredAhead } from './high-entropy.js';
import type { AdamW } from './optimizer.js';
import { numbersFromJson, numbersToJson, togetherOrNot } from './ranks.js';
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

/** Rollouts that run through the model together, and what their loss is divided by. */
interface MicroBatch {
  rollouts: readonly Rollout[];
  denominators: { tokens: number; sequences: number };
}

/** What an update works with, beside its rollouts. */
export interface UpdateParts extends Policies {
  optimizer: AdamW;
  group: ProcessGroup;
  config: GRPOConfig;
  cloning?: Cloning | null;
}

/** What a rank read of its part of the update. */
interface RankResult {
  losses: (number | string)[];
  statistics: (number | string)[][];
  reported: ReportedMetrics | null;
  sftLoss: number | string | null;
}

/**
 * One optimiser update. Every rollout has its advantage; `batches` has those of all ranks. Each rank works on a share of
 * about as many tokens as any other, `perDeviceTrainBatchSize` sequences at once; all divide by the tokens and sequences
 * of the whole update, so that its gradient does not depend on how it was cut (but for lossType bnpo, which is defined by
 * `batches`). With topEntropyQuantile all but the first micro-batch run forward twice, since their entropies decide on the
 * losses of all. With `cloning` the cross-entropy of its next demonstrations is added. Everything is queued first; the
 * values are read once, at the end, and are those of all ranks.
 */
export async function updatePolicy(
  parts: UpdateParts,
  batches: readonly (readonly Rollout[])[],
  learningRate: number,
): Promise<UpdateResult> {
  const { optimizer, group, config, cloning = null } = parts;
  const scope = new Scope();
  const clones = cloning?.next() ?? [];
  try {
    const cut = (rank: number) => cutIntoMicroBatches(batches, config, rank, group.worldSize);
    const losses = backwardEach(parts, cut, scope);
    const cloned = cloning?.backward(clones, optimizer, scope);
    const norm = scope.track(optimizer.update(learningRate));
    let gradNorm = Number.NaN;
    const ranks = await togetherOrNot<RankResult>(group, async () => {
      const [normValue, sftLoss, statistics, values] = await Promise.all([
        readNumber(norm),
        cloned?.read() ?? null,
        Promise.all(losses.map((loss) => loss.statistics.read())),
        Promise.all(losses.map((loss) => readNumber(loss.loss))),
      ]);
      gradNorm = normValue;
      return {
        losses: numbersToJson(values),
        statistics: statistics.map(numbersToJson),
        reported: losses[0]?.reported ?? null,
        sftLoss: sftLoss === null ? null : numbersToJson([sftLoss])[0]!,
      };
    });
    const metrics = metricsOf(ranks);
    if (!optimizer.applied(gradNorm)) metrics.skipped_updates = 1;
    const sftLoss = sum(ranks.map((rank) => Number(rank.sftLoss ?? 0)));
    if (cloning) metrics.sft_loss = sftLoss;
    const loss = sum(ranks.flatMap((rank) => numbersFromJson(rank.losses))) + config.sftCoefficient * sftLoss;
    const cloneTokens = {
      all: sum(clones.map(({ promptIds, completionIds }) => promptIds.length + completionIds.length)),
      completions: sum(clones.map(({ completionIds }) => completionIds.length)),
    };
    return { loss, gradNorm, metrics, cloneTokens };
  } finally {
    scope.dispose();
  }
}

/** A rank's part of an update. The tokens of lossType bnpo are those of a batch; each counts for as much as any other. */
function cutIntoMicroBatches(
  batches: readonly (readonly Rollout[])[],
  { lossType, perDeviceTrainBatchSize: size, maskTruncatedCompletions }: GRPOConfig,
  rank: number,
  worldSize: number,
): MicroBatch[] {
  const taking = batches.map((rollouts) => rollouts.filter(takesPart)).filter((rollouts) => rollouts.length > 0);
  const tokensOf = (rollouts: readonly Rollout[]) =>
    Math.max(1, sum(rollouts.map((rollout) => activeTokens(rollout, maskTruncatedCompletions))));
  const sequences = Math.max(1, sum(taking.map((rollouts) => rollouts.length)));
  const parts =
    lossType === 'bnpo'
      ? taking.map((rollouts) => ({ rollouts, tokens: tokensOf(rollouts) * taking.length }))
      : [{ rollouts: taking.flat(), tokens: tokensOf(taking.flat()) }];
  return parts.flatMap(({ rollouts, tokens }) => {
    const own = tokenShare(rollouts, rank, worldSize);
    return microBatches(own, size).map((batch) => ({ rollouts: batch, denominators: { tokens, sequences } }));
  });
}

function metricsOf(ranks: readonly RankResult[]): Record<string, number> {
  const reported = ranks.find((rank) => rank.reported)?.reported;
  if (!reported) return {};
  return policyMetrics(mergePolicyStatistics(ranks.flatMap((rank) => rank.statistics.map(numbersFromJson))), reported);
}

/** The options of the policy loss, under the names of the kernel; but for topEntropyQuantile, which needs the update. */
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

/** Forward and backward of this rank's micro-batches; the tensors of their losses live as long as `scope`. */
function backwardEach(parts: UpdateParts, cut: (rank: number) => MicroBatch[], scope: Scope): PolicyLoss[] {
  const { policy, optimizer, group, config, cloning } = parts;
  const own = cut(group.rank);
  // Of the micro-batch that runs backward, which may have been scored before that was known.
  let listener: ((prefix: string) => void) | null = null;
  const score = (rollouts: readonly Rollout[], gradients = true) =>
    policy.score(rollouts, {
      ...scoreOptions(config),
      ...{ gradients, gradientCheckpointing: config.gradientCheckpointing, entropy: true },
      onGradients: (prefix) => listener?.(prefix),
    });
  let threshold: Tensor | null = null;
  let ahead: ScoredAhead[] = [];
  if (config.topEntropyQuantile < 1) {
    const rollouts = Array.from({ length: group.worldSize }, (_, rank) => cut(rank).map((part) => part.rollouts));
    ({ threshold, ahead } = highEntropyThreshold(parts, rollouts, score, scope));
  }
  return optimizer.backwardEach(
    own.map((microBatch, i) => ({ microBatch, entropy: ahead[i]?.entropy, scores: ahead[i]?.scores })),
    (rank) => cut(rank).length,
    ({ microBatch, entropy, scores }, onGradients) => {
      listener = onGradients;
      const inputs = { entropy, entropyThreshold: threshold };
      return backward(parts, microBatch, scores ?? score(microBatch.rollouts), inputs, scope);
    },
    !cloning,
  );
}

/** Adds the gradients of a micro-batch and disposes of its scores. */
function backward(
  { reference, config }: UpdateParts,
  { rollouts, denominators }: MicroBatch,
  scores: TokenScores,
  highEntropy: Pick<PolicyLossInputs, 'entropy' | 'entropyThreshold'>,
  scope: Scope,
): PolicyLoss {
  let referenceScores: TokenScores | null = null;
  try {
    const refLogProbs = packed(rollouts, 'refLogProbs');
    if (reference && !refLogProbs) referenceScores = reference.score(rollouts, scoreOptions(config));
    const loss = policyLoss(
      {
        logProbs: scores.logProbs,
        entropy: highEntropy.entropy ?? scores.entropy,
        entropyThreshold: highEntropy.entropyThreshold,
        oldLogProbs: packed(rollouts, 'oldLogProbs'),
        refLogProbs: refLogProbs ?? referenceScores?.logProbs,
        rolloutLogProbs: packed(rollouts, 'rolloutLogProbs'),
        advantages: Float32Array.from(rollouts, (rollout) => rollout.advantage!),
        mask: packedMask(rollouts, config.maskTruncatedCompletions),
        sequenceOffsets: scores.sequenceOffsets,
      },
      { ...lossOptions(config), denominators },
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

function scoreOptions({ temperature, logitsWorkspaceBytes: workspaceBytes }: GRPOConfig): ScoreOptions {
  return { temperature, workspaceBytes };
}

function activeTokens(rollout: Rollout, maskTruncated: boolean): number {
  const mask = lossMask(rollout, maskTruncated);
  return mask ? sum([...mask]) : rollout.completionIds.length;
}

/** 1 for each token of the batch that counts in the loss; null when all do. */
function packedMask(rollouts: readonly Rollout[], maskTruncated: boolean): Int32Array | null {
  const masks = rollouts.map((rollout) => lossMask(rollout, maskTruncated));
  if (masks.every((mask) => mask === null)) return null;
  const whole = (rollout: Rollout) => new Int32Array(rollout.completionIds.length).fill(1);
  return Int32Array.from(masks.flatMap((part, i) => [...(part ?? whole(rollouts[i]!))]));
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
