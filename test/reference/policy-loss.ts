/**
 * Section 4 of docs/numerics.md in float64, from the definitions alone: the gradients are central differences of the
 * loss, with everything that the definitions detach held at the point of differentiation.
 */
import type { PolicyLossOptions } from '../../src/kernels/policy-loss.js';

/** Packed tokens; every array is a plain list of numbers. */
export interface ReferenceTokens {
  logProbs: readonly number[];
  oldLogProbs?: readonly number[];
  refLogProbs?: readonly number[];
  rolloutLogProbs?: readonly number[];
  entropy?: readonly number[];
  /** As `referenceEntropyThreshold` gives it, of more tokens than these. */
  entropyThreshold?: readonly number[];
  /** One a sequence or one a token. */
  advantages: readonly number[];
  mask?: readonly number[];
  sequenceOffsets: readonly number[];
}

export interface ReferenceResult {
  loss: number;
  gradLogProbs: number[];
  gradEntropy: number[];
}

interface Sequence {
  /** Active tokens, by their place in the batch. */
  tokens: number[];
  advantage: (token: number) => number;
}

export function referencePolicyLoss(tokens: ReferenceTokens, options: PolicyLossOptions): ReferenceResult {
  const loss = (changed: Partial<ReferenceTokens>) => lossAt({ ...tokens, ...changed }, tokens, options);
  return {
    loss: loss({}),
    gradLogProbs: differences(tokens.logProbs, (logProbs) => loss({ logProbs })),
    // The high-entropy mask is chosen at the point of differentiation.
    gradEntropy: differences(tokens.entropy ?? [], (entropy) => loss({ entropy })),
  };
}

function differences(at: readonly number[], f: (values: number[]) => number): number[] {
  const step = 1e-5;
  return at.map((_, i) => {
    const moved = (by: number) => f(at.map((x, j) => (j === i ? x + by : x)));
    return (moved(step) - moved(-step)) / (2 * step);
  });
}

/** The loss at `tokens`; what is detached is taken from `fixed`. */
function lossAt(tokens: ReferenceTokens, fixed: ReferenceTokens, options: PolicyLossOptions): number {
  const { lossType = 'dapo', beta = 0, entropyCoefficient = 0 } = options;
  const sequences = split(tokens);
  const active = sequences.flatMap((sequence) => sequence.tokens);
  const [threshold, share] = thresholdOf(fixed, active, options.topEntropyQuantile ?? 1);
  const highEntropy = new Set(active.filter((t) => threshold === null || !(fixed.entropy![t]! < threshold)));
  const tokenCount = options.denominators?.tokens ?? Math.max(active.length, 1);
  const sequenceCount = options.denominators?.sequences ?? Math.max(sequences.length, 1);
  let total = 0;
  for (const sequence of sequences) {
    const n = Math.max(sequence.tokens.length, 1);
    const keep = offPolicyMask(sequence, fixed, options);
    const weight = correctionWeights(sequence, fixed, options);
    let sum = 0;
    for (const t of sequence.tokens) {
      const ratio = ratioOf(t, sequence, tokens, fixed, options);
      const a = sequence.advantage(t);
      let loss = a === 0 ? 0 : objective(t, a, ratio, sequence, tokens, fixed, options);
      if (!keep(t) || !highEntropy.has(t)) loss = 0;
      if (lossType !== 'vespo') loss *= weight(t);
      if (beta !== 0) loss += beta * kl(t, tokens, options) * (options.biasCorrectedKl ? ratio : 1);
      sum += loss;
    }
    if (lossType === 'grpo' || lossType === 'sapo') total += sum / n / sequenceCount;
    else if (lossType === 'dr_grpo') total += sum / (sequenceCount * options.maxCompletionLength!);
    else if (lossType === 'luspo') total += sum / sequenceCount;
    else total += sum / tokenCount;
  }
  if (entropyCoefficient !== 0 && share > 0) {
    total -= (entropyCoefficient * sumOf([...highEntropy].map((t) => tokens.entropy![t]!))) / (tokenCount * share);
  }
  return total;
}

function split({ sequenceOffsets, advantages, mask }: ReferenceTokens): Sequence[] {
  const count = sequenceOffsets.length - 1;
  return Array.from({ length: count }, (_, b) => {
    const tokens = range(sequenceOffsets[b]!, sequenceOffsets[b + 1]!).filter((t) => !mask || mask[t] === 1);
    return { tokens, advantage: (t: number) => advantages[advantages.length === count ? b : t]! };
  });
}

function ratioOf(
  t: number,
  sequence: Sequence,
  tokens: ReferenceTokens,
  fixed: ReferenceTokens,
  options: PolicyLossOptions,
): number {
  const old = fixed.oldLogProbs ?? fixed.logProbs;
  const d = (s: number) => tokens.logProbs[s]! - old[s]!;
  if (options.importanceSamplingLevel !== 'sequence') return Math.exp(d(t));
  return Math.exp(sumOf(sequence.tokens.map(d)) / sequence.tokens.length);
}

function objective(
  t: number,
  a: number,
  ratio: number,
  sequence: Sequence,
  tokens: ReferenceTokens,
  fixed: ReferenceTokens,
  options: PolicyLossOptions,
): number {
  const { lossType = 'dapo', epsilon = 0.2 } = options;
  const epsilonHigh = options.epsilonHigh ?? epsilon;
  if (lossType === 'cispo') {
    const detached = ratioOf(t, sequence, fixed, fixed, options);
    return -Math.min(detached, epsilonHigh) * a * tokens.logProbs[t]!;
  }
  if (lossType === 'sapo') {
    const { positive, negative } = options.sapoTemperatures ?? { positive: 1, negative: 1.05 };
    const tau = a > 0 ? positive : negative;
    return (-(4 / tau) * a) / (1 + Math.exp(-tau * (ratio - 1)));
  }
  if (lossType === 'vespo') return -phi(a, sequence, fixed, options) * a * tokens.logProbs[t]!;
  const clipped = Math.min(Math.max(ratio, 1 - epsilon), 1 + epsilonHigh);
  const capped = Math.min(ratio, options.delta ?? Infinity);
  return -Math.min(capped * a, clipped * a);
}

/** VESPO's weight of a sequence: docs/numerics.md, below the table of losses. */
function phi(a: number, sequence: Sequence, fixed: ReferenceTokens, options: PolicyLossOptions): number {
  const { kPositive, lambdaPositive, kNegative, lambdaNegative } = options.vespo ?? {
    kPositive: 2,
    lambdaPositive: 3,
    kNegative: 3,
    lambdaNegative: 2,
  };
  const [k, lambda] = a >= 0 ? [kPositive, lambdaPositive] : [kNegative, lambdaNegative];
  const old = fixed.oldLogProbs ?? fixed.logProbs;
  const weight = correctionWeights(sequence, fixed, options);
  const least = Math.log(1e-8);
  const logWeight = sumOf(
    sequence.tokens.map((t) => {
      const d = clamp(fixed.logProbs[t]! - old[t]!, -20, 20);
      return d + (options.rolloutCorrection ? clamp(Math.log(weight(t)), least, 20) : 0);
    }),
  );
  const x = clamp(logWeight, least, 20);
  const decay = Math.max(lambda, 1e-4);
  return Math.exp(decay + k * x - decay * Math.exp(x));
}

function kl(t: number, { refLogProbs, logProbs }: ReferenceTokens, { klEstimator = 'k3' }: PolicyLossOptions): number {
  const x = refLogProbs![t]! - logProbs[t]!;
  if (klEstimator === 'k1') return -x;
  return klEstimator === 'k2' ? (x * x) / 2 : Math.expm1(x) - x;
}

function offPolicyMask(sequence: Sequence, fixed: ReferenceTokens, options: PolicyLossOptions): (t: number) => boolean {
  const threshold = options.offPolicyMaskThreshold;
  if (threshold === undefined || threshold === null) return () => true;
  const from = fixed.rolloutLogProbs ?? fixed.oldLogProbs ?? fixed.logProbs;
  const away = sequence.tokens.map((t) => (Number.isNaN(from[t]) ? 0 : from[t]! - fixed.logProbs[t]!));
  const near = sumOf(away) / Math.max(away.length, 1) <= threshold;
  return (t) => near || sequence.advantage(t) >= 0;
}

/** Null: every token is acted on. */
function thresholdOf(fixed: ReferenceTokens, active: number[], quantile: number): [number | null, number] {
  if (fixed.entropyThreshold) return [fixed.entropyThreshold[0]!, fixed.entropyThreshold[1]!];
  if (quantile >= 1) return [null, 1];
  return referenceEntropyThreshold(
    active.map((t) => fixed.entropy![t]!),
    quantile,
  );
}

/** Of the entropies of active tokens: the threshold, and the share of them that reaches it. */
export function referenceEntropyThreshold(entropies: readonly number[], share: number): [number, number] {
  if (entropies.length === 0) return [0, 0];
  const sorted = entropies.toSorted((a, b) => a - b);
  const position = (1 - share) * (sorted.length - 1);
  const low = sorted[Math.floor(position)]!;
  const high = sorted[Math.ceil(position)]!;
  const threshold = low + (high - low) * (position - Math.floor(position));
  return [threshold, sorted.filter((x) => x >= threshold).length / sorted.length];
}

function correctionWeights(
  sequence: Sequence,
  fixed: ReferenceTokens,
  options: PolicyLossOptions,
): (t: number) => number {
  if (!options.rolloutCorrection) return () => 1;
  const { mode, cap = 3, min = 0, geometric = false } = options.rolloutCorrection;
  const old = fixed.oldLogProbs ?? fixed.logProbs;
  const rollout = fixed.rolloutLogProbs!;
  const difference = (t: number) => (Number.isNaN(rollout[t]) ? 0 : old[t]! - rollout[t]!);
  const all = sumOf(sequence.tokens.map(difference));
  const ofSequence = geometric ? all / Math.max(sequence.tokens.length, 1) : all;
  return (t) => {
    const w = Math.exp(mode.startsWith('token') ? difference(t) : ofSequence);
    if (mode.endsWith('truncate')) return clamp(w, min, cap);
    return w >= min && w <= cap ? w : 0;
  };
}

function clamp(x: number, low: number, high: number): number {
  return Math.min(Math.max(x, low), high);
}

function sumOf(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}
