/// <reference types="@webgpu/types" preserve="true" />
/** What policyLoss and policyLossFromLogits are given beside tensors. */
const policyLossScalars = [
  'lossType',
  'sequenceLevel',
  'epsilon',
  'epsilonHigh',
  'delta',
  'beta',
  'klEstimator',
  'biasCorrectedKl',
  'entropyCoefficient',
  'offPolicyMaskThreshold',
  'sapoTemperaturePositive',
  'sapoTemperatureNegative',
  'vespoKPositive',
  'vespoLambdaPositive',
  'vespoKNegative',
  'vespoLambdaNegative',
  'rolloutCorrection',
  'rolloutCap',
  'rolloutMin',
  'rolloutGeometric',
  'maxCompletionLength',
  'tokenDenominator',
  'sequenceDenominator',
] as const;

/**
 * The one list of operations, and what a backend is.
 *
 * An entry says for each tensor: whether the operation reads it (`in`), writes it whole (`out`) or adds to it or changes
 * it in place (`inout`), `?` when it may be left out; its dtype (`float` is f32, bf16 or f16); and its shape. A letter
 * stands for the same length wherever it appears in the entry, `B+1` for one more, `...` for any shape (the same in the
 * whole entry). Then come the scalars. The order is that of `kernels/include/grpo.h`; a test holds the two together.
 *
 * Operations are queued and run in call order. Everything accumulates in float32 or better. Unless an entry says
 * otherwise an `out` tensor must not overlap an input.
 */
export const operations = {
  // ---- memory -------------------------------------------------------------------------------------------------------
  /** out = value. */
  fill: op({ out: 'out any [...]' }, ['value']),
  /** out = in, converted to the dtype of `out` (round to nearest even). */
  copy: op({ in: 'in any [...]', out: 'out any [...]' }, []),
  /** out[i] = in[indices[i]]. */
  gatherRows: op({ in: 'in any [M,C]', indices: 'in i32 [N]', out: 'out any [N,C]' }, []),
  /** out[indices[i]] = in[i]; other rows stay. The indices must differ from each other. */
  scatterRows: op({ in: 'in any [N,C]', indices: 'in i32 [N]', out: 'inout any [M,C]' }, []),

  // ---- decoder ------------------------------------------------------------------------------------------------------
  /** out = alpha * a + beta * b. `out` may be `a` or `b`. */
  add: op({ a: 'in float [...]', b: 'in float [...]', out: 'out float [...]' }, ['alpha', 'beta']),
  /**
   * out = op(a) op(b) + bias, plus what `out` held when `accumulate` is 1. With transposeA `a` is stored [K,M], with
   * transposeB `b` is stored [N,K] (a weight as Hugging Face stores it). `bias` has one entry a column of `out`.
   */
  matmul: op({ a: 'in float [*,*]', b: 'in float [*,*]', bias: 'in? float [N]', out: 'inout float [M,N]' }, [
    'transposeA',
    'transposeB',
    'accumulate',
  ]),
  /** out[c] += sum over n of in[n,c]: the gradient of a bias. */
  columnSum: op({ in: 'in float [N,C]', out: 'inout f32 [C]' }, []),
  /** out[n] = table[ids[n]]. An id outside [0,V) is an error. */
  embedding: op({ table: 'in float [V,H]', ids: 'in i32 [N]', out: 'out float [N,H]' }, []),
  /** gradTable[ids[n]] += gradOut[n], in the order of n. */
  embeddingBackward: op({ gradOut: 'in float [N,H]', ids: 'in i32 [N]', gradTable: 'inout f32 [V,H]' }, []),
  /**
   * out = in * inverseRms * weight with inverseRms = 1 / sqrt(mean(in^2) + epsilon), over groups of D adjacent elements:
   * a row of C = D for the norms of a layer, of C = heads * D for the norms of queries and keys. G = N * C / D.
   */
  rmsNorm: op({ in: 'in float [N,C]', weight: 'in float [D]', out: 'out float [N,C]', inverseRms: 'out? f32 [G]' }, [
    'epsilon',
  ]),
  /** gradIn = (or +=, with `accumulate`) the gradient; gradWeight += its gradient. */
  rmsNormBackward: op(
    {
      in: 'in float [N,C]',
      weight: 'in float [D]',
      inverseRms: 'in f32 [G]',
      gradOut: 'in float [N,C]',
      gradIn: 'inout float [N,C]',
      gradWeight: 'inout? f32 [D]',
    },
    ['accumulate'],
  ),
  /**
   * Rotary position embedding of every head of `headDim` elements, halves rotated against each other as Hugging Face
   * does: angle = positions[n] * inverseFrequencies[i], pairs (i, i + headDim / 2). `backward` 1 turns the other way.
   * `out` may be `in`.
   */
  rope: op(
    { in: 'in float [N,C]', positions: 'in i32 [N]', inverseFrequencies: 'in f32 [F]', out: 'out float [N,C]' },
    ['headDim', 'backward'],
  ),
  /**
   * Causal attention inside each of B packed sequences: sequence b has the rows sequenceOffsets[b] up to
   * sequenceOffsets[b+1]. Q = query heads * headDim, K = key heads * headDim; query head h reads key head
   * floor(h * keyHeads / queryHeads). A = query heads. `maxLength` is the longest sequence.
   * With `parents`, sequence b continues sequence parents[b] (-1: none): its rows also see all rows of that sequence,
   * which is earlier and has no parent itself; `maxLength` counts both. Completions of one prompt share it so.
   */
  attention: op(
    {
      queries: 'in float [N,Q]',
      keys: 'in float [N,K]',
      values: 'in float [N,K]',
      sequenceOffsets: 'in i32 [B+1]',
      parents: 'in? i32 [B]',
      out: 'out float [N,Q]',
      logSumExp: 'out? f32 [N,A]',
    },
    ['headDim', 'scale', 'maxLength'],
  ),
  attentionBackward: op(
    {
      queries: 'in float [N,Q]',
      keys: 'in float [N,K]',
      values: 'in float [N,K]',
      sequenceOffsets: 'in i32 [B+1]',
      parents: 'in? i32 [B]',
      out: 'in float [N,Q]',
      logSumExp: 'in f32 [N,A]',
      gradOut: 'in float [N,Q]',
      gradQueries: 'out float [N,Q]',
      gradKeys: 'out float [N,K]',
      gradValues: 'out float [N,K]',
    },
    ['headDim', 'scale', 'maxLength'],
  ),
  /**
   * Attention of R query rows over a cache of C token rows. Row r sees two runs of the cache, one after the other:
   * segments[r] = (prefix start, prefix length, own start, own length); samples of one prompt share its prefix.
   * `maxLength` is the largest prefix + own length, or any bound above it. A row gives the same bits in every batch,
   * wherever its keys lie; on the CPU and WebGPU also those of the same row in `attention`.
   */
  cachedAttention: op(
    {
      queries: 'in float [R,Q]',
      keyCache: 'in float [C,K]',
      valueCache: 'in float [C,K]',
      segments: 'in i32 [R,4]',
      out: 'out float [R,Q]',
    },
    ['headDim', 'scale', 'maxLength'],
  ),
  /** out = silu(gate) * up. */
  swiglu: op({ gate: 'in float [N,I]', up: 'in float [N,I]', out: 'out float [N,I]' }, []),
  swigluBackward: op(
    {
      gate: 'in float [N,I]',
      up: 'in float [N,I]',
      gradOut: 'in float [N,I]',
      gradGate: 'out float [N,I]',
      gradUp: 'out float [N,I]',
    },
    [],
  ),
  /**
   * One token a row. keys[s] = (seed low, seed high, sequence, position): the Philox counter, so that a sample does not
   * depend on its batch. temperature 0 takes the largest logit (the lowest id among equals). topK 0, topP 1 and minP 0
   * switch a filter off; they apply in that order. `logProbs` is the log-prob under softmax(logits / temperature)
   * before any filter (temperature 1 when greedy), computed as `tokenLogProbs` does, to the same bits.
   */
  sample: op({ logits: 'in float [S,V]', keys: 'in i32 [S,4]', ids: 'out i32 [S]', logProbs: 'out f32 [S]' }, [
    'temperature',
    'topK',
    'topP',
    'minP',
  ]),

  // ---- GRPO (formulas: docs/numerics.md) ----------------------------------------------------------------------------
  /**
   * Section 1. softcap 0 switches the cap off. A target outside [0,V) is an error. Rows whose `mask` is 0 are not read:
   * their results are 0.
   */
  tokenLogProbs: op(
    {
      logits: 'in float [N,V]',
      targets: 'in i32 [N]',
      mask: 'in? i32 [N]',
      logProbs: 'out f32 [N]',
      entropy: 'out? f32 [N]',
      logSumExp: 'out? f32 [N]',
    },
    ['temperature', 'softcap'],
  ),
  /**
   * gradLogits may be `logits` (in place). Rows whose gradLogProbs and gradEntropy are 0 get zeros and are not read.
   * `logits` may be a slice of the vocabulary that starts at vocabStart out of vocabSize entries (vocabSize 0: the
   * slice is the vocabulary); a target outside the slice then only has the softmax part.
   */
  tokenLogProbsBackward: op(
    {
      logits: 'in float [N,V]',
      targets: 'in i32 [N]',
      logSumExp: 'in f32 [N]',
      entropy: 'in? f32 [N]',
      gradLogProbs: 'in f32 [N]',
      gradEntropy: 'in? f32 [N]',
      gradLogits: 'inout float [N,V]',
    },
    ['temperature', 'softcap', 'vocabStart', 'vocabSize'],
  ),
  /** partial[n] = (max z, sum exp(z - max), sum exp(z - max) * (z - max), z of the target or 0) of a vocabulary slice. */
  tokenLogProbsPartial: op({ logits: 'in float [N,V]', targets: 'in i32 [N]', partial: 'out f32 [N,4]' }, [
    'temperature',
    'softcap',
    'vocabStart',
    'vocabSize',
  ]),
  /** Joins the partials of P slices. */
  tokenLogProbsMerge: op(
    { partials: 'in f32 [P,N,4]', logProbs: 'out f32 [N]', entropy: 'out? f32 [N]', logSumExp: 'out? f32 [N]' },
    [],
  ),
  /** Section 2: tokenLogProbs of hidden * weight^T in chunks of rows that fit `workspaceBytes`. */
  linearTokenLogProbs: op(
    {
      hidden: 'in float [N,H]',
      weight: 'in float [V,H]',
      targets: 'in i32 [N]',
      logProbs: 'out f32 [N]',
      entropy: 'out? f32 [N]',
      logSumExp: 'out? f32 [N]',
    },
    ['temperature', 'softcap', 'workspaceBytes'],
  ),
  /**
   * gradHidden is overwritten (rows without a gradient get zeros); gradWeight += its gradient, absent when frozen. With
   * hidden, weight and gradHidden in bf16 the gradient of the logits may be rounded to bf16 on its way.
   */
  linearTokenLogProbsBackward: op(
    {
      hidden: 'in float [N,H]',
      weight: 'in float [V,H]',
      targets: 'in i32 [N]',
      logSumExp: 'in f32 [N]',
      entropy: 'in? f32 [N]',
      gradLogProbs: 'in f32 [N]',
      gradEntropy: 'in? f32 [N]',
      gradHidden: 'out? float [N,H]',
      gradWeight: 'inout? f32 [V,H]',
    },
    ['temperature', 'softcap', 'workspaceBytes'],
  ),
  /** Section 3. Group g has the rewards groupOffsets[g] up to groupOffsets[g+1]. */
  groupAdvantages: op({ rewards: 'in f32 [B]', groupOffsets: 'in i32 [G+1]', advantages: 'out f32 [B]' }, [
    'baseline',
    'scale',
    'epsilon',
  ]),
  /**
   * Section 4. threshold[0]: the entropy from which on the share `topEntropyQuantile` (above 0, at most 1) of the active
   * tokens lie; threshold[1]: the share that does reach it, ties included. Both 0 without an active token.
   */
  entropyThreshold: op({ entropy: 'in f32 [N]', mask: 'in? i32 [N]', threshold: 'out f32 [2]' }, [
    'topEntropyQuantile',
  ]),
  /**
   * Section 4. L is B (an advantage a sequence) or N (a token). `mask` is 0 or 1 a token, all 1 when absent. Scalars
   * that switch off at a natural value: delta, rolloutCap, offPolicyMaskThreshold at Infinity, rolloutMin, beta,
   * entropyCoefficient at 0. Denominators of 0 mean "count this call's own". `entropyThreshold` is what the operation of
   * that name wrote, for this call's tokens or for more; without it all tokens are acted on.
   * `statistics` are sums, maxima and minima, laid out in src/kernels/policy-statistics.ts, so that calls can be added up.
   */
  policyLoss: op(
    {
      logProbs: 'in f32 [N]',
      oldLogProbs: 'in? f32 [N]',
      refLogProbs: 'in? f32 [N]',
      rolloutLogProbs: 'in? f32 [N]',
      entropy: 'in? f32 [N]',
      entropyThreshold: 'in? f32 [2]',
      advantages: 'in f32 [L]',
      mask: 'in? i32 [N]',
      sequenceOffsets: 'in i32 [B+1]',
      loss: 'out f32 [1]',
      gradLogProbs: 'out f32 [N]',
      gradEntropy: 'out? f32 [N]',
      statistics: 'out f32 [T]',
    },
    policyLossScalars,
  ),
  /**
   * tokenLogProbs with the mask, policyLoss and tokenLogProbsBackward one after another, to the same bits. Where the
   * gradient of a token's loss depends on no other token's log-prob, a row is read once, and finished while it is at hand.
   * gradLogits may be `logits` (in place).
   */
  policyLossFromLogits: op(
    {
      logits: 'in float [N,V]',
      targets: 'in i32 [N]',
      oldLogProbs: 'in? f32 [N]',
      refLogProbs: 'in? f32 [N]',
      rolloutLogProbs: 'in? f32 [N]',
      entropyThreshold: 'in? f32 [2]',
      advantages: 'in f32 [L]',
      mask: 'in? i32 [N]',
      sequenceOffsets: 'in i32 [B+1]',
      logProbs: 'out f32 [N]',
      entropy: 'out f32 [N]',
      logSumExp: 'out f32 [N]',
      loss: 'out f32 [1]',
      gradLogProbs: 'out f32 [N]',
      gradEntropy: 'out? f32 [N]',
      statistics: 'out f32 [T]',
      gradLogits: 'inout float [N,V]',
    },
    ['temperature', 'softcap', ...policyLossScalars],
  ),

  // ---- optimiser ----------------------------------------------------------------------------------------------------
  /** norm[0] = sqrt(sum of squares of `in`), summed in float64. */
  globalNorm: op({ in: 'in f32 [P]', norm: 'out f32 [1]' }, []),
  /**
   * One AdamW update with decoupled decay, in place. Gradients are first multiplied by min(1, maxNorm / (norm + 1e-6))
   * when `norm` is given and maxNorm > 0; nothing changes when `norm` is not finite. `step` counts from 1.
   * `modelWeights`, when given, receives the parameters in its own dtype (bf16 weights beside float32 masters).
   */
  adamw: op(
    {
      parameters: 'inout f32 [P]',
      gradients: 'in f32 [P]',
      firstMoment: 'inout f32 [P]',
      secondMoment: 'inout f32 [P]',
      modelWeights: 'out? float [P]',
      norm: 'in? f32 [1]',
    },
    ['learningRate', 'beta1', 'beta2', 'epsilon', 'weightDecay', 'step', 'maxNorm'],
  ),
} as const;

export type Operations = typeof operations;
export type OperationName = keyof Operations;

export type DType = 'f32' | 'bf16' | 'f16' | 'i32';
export const dtypes: readonly DType[] = ['f32', 'bf16', 'f16', 'i32'];
export const bytesPerElement: Record<DType, number> = { f32: 4, bf16: 2, f16: 2, i32: 4 };

/** What a backend needs to know of a tensor. Rows are the last dimension; `rowStride` elements lie between two rows. */
export interface TensorView {
  storage: number;
  byteOffset: number;
  dtype: DType;
  shape: readonly number[];
  rowStride: number;
}

/** A call of `run`, to be made later. */
export interface RecordedCall {
  operation: OperationName;
  tensors: readonly (TensorView | null)[];
  scalars: readonly number[];
}

/** Calls that a backend remembers. */
export interface Program {
  /** Queues all of them, in order. */
  replay(): void;
  release(): void;
  statistics(): ReplayStatistics;
}

export interface ReplayStatistics {
  /** Replays that have run. */
  replays: number;
  /** Those of them that were one launch of a CUDA graph. */
  launches: number;
  /** How often the calls were captured into a graph. */
  captures: number;
  /** Why the calls run one by one for good; null while a graph may come, or is there. */
  refusal: string | null;
}

export interface DeviceMemory {
  /** Bytes handed out and not released. */
  liveBytes: number;
  /** Live bytes plus memory that is kept for reuse. */
  reservedBytes: number;
  /** Highest `liveBytes` so far. */
  peakBytes: number;
}

/**
 * One device. Calls return at once and take effect in call order; only `read` and `synchronize` wait. A kernel that
 * fails marks what it should have written, and reading that, or anything computed from it, rejects with its error.
 */
export interface Backend {
  readonly kind: 'cpu' | 'cuda' | 'webgpu';
  readonly name: string;
  /** What a person wants to know of the device: isa, threads, matrix product, driver, limits. */
  readonly details: Readonly<Record<string, string>>;
  /** Reserves memory (content undefined) and returns its storage number, which is never used again after `release`. */
  allocate(bytes: number): number;
  /**
   * Adopts memory that somebody else owns. What is queued from now on runs after what `stream` holds; `keepAlive` is
   * held until nothing uses the memory any more.
   */
  adopt?(pointer: bigint, bytes: number, stream?: bigint, keepAlive?: object): number;
  /** The same for a buffer of WebGPU. */
  adoptBuffer?(buffer: GPUBuffer, bytes: number): number;
  release(storage: number): void;
  /** Copies `data` before it returns. */
  write(storage: number, byteOffset: number, data: ArrayBufferView): void;
  read(storage: number, byteOffset: number, bytes: number): Promise<ArrayBuffer>;
  /** `tensors` and `scalars` in the order of the operation's entry; an absent tensor is null. Arguments are checked. */
  run(operation: OperationName, tensors: readonly (TensorView | null)[], scalars: readonly number[]): void;
  /** Remembers calls, as `run` takes them; their storages must stay until the last replay. */
  record(calls: readonly RecordedCall[]): Program;
  /** Resolves when everything queued so far has run, or with a stream (CUDA only) when the stream waits for that. */
  synchronize(stream?: bigint): Promise<void>;
  memory(): DeviceMemory;
  /** Frees everything. Pending reads reject. */
  close(): void;
}

// ---- types of the entries ---------------------------------------------------------------------------------------------

type Role = 'in' | 'in?' | 'out' | 'out?' | 'inout' | 'inout?';
export type TensorSpec = `${Role} ${'any' | 'float' | 'f32' | 'i32'} [${string}]`;

export interface Operation<T extends Record<string, TensorSpec>, S extends string> {
  readonly tensors: T;
  readonly scalars: readonly S[];
}

type OptionalKeys<T> = { [K in keyof T]: T[K] extends `${string}? ${string}` ? K : never }[keyof T];

/** The arguments of an operation by name, with tensors of type `T`. */
export type OperationArguments<Name extends OperationName, T> = {
  [K in Exclude<keyof Operations[Name]['tensors'], OptionalKeys<Operations[Name]['tensors']>>]: T;
} & { [K in OptionalKeys<Operations[Name]['tensors']>]?: T | null | undefined } & {
  [K in Operations[Name]['scalars'][number]]: number;
};

function op<const T extends Record<string, TensorSpec>, const S extends string>(
  tensors: T,
  scalars: readonly S[],
): Operation<T, S> {
  return { tensors, scalars };
}
