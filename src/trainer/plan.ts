import { bytesPerElement } from '../backend/backend.js';
import type { ActivationDType } from '../models/activations.js';
import type { ModelConfig } from '../models/config.js';
import { gradientOrder, parameterSpecs } from '../models/decoder.js';
import { shardLength } from '../models/parameters.js';
import { elementCount } from '../tensor.js';
import type { GRPOConfig } from './config.js';
import { learningRateAt, totalUpdates } from './schedule.js';

/** What a configuration amounts to, before anything runs. */
export interface RunPlan {
  promptsPerGeneration: number;
  completionsPerGeneration: number;
  /** Of a prompt with contrast: how many of its completions do not think. */
  directCompletions: number;
  completionsPerUpdate: number;
  updatesPerGeneration: number;
  demonstrationsPerUpdate: number;
  /** null: the rows of the data set are not known, and nothing else says it. */
  totalUpdates: number | null;
  /** The learning rate of chosen updates, which count from 1. */
  learningRates: { update: number; learningRate: number }[];
}

/** Rows of the data set that an update uses. May be a fraction, when rows are used for several updates. */
export function promptsPerUpdate(c: GRPOConfig, worldSize = 1): number {
  return (c.gradientAccumulationSteps * c.perDeviceTrainBatchSize * worldSize) / (c.numGenerations * c.numIterations);
}

/** Of a run on `worldSize` ranks, all together. */
export function planRun(config: GRPOConfig, rows: number | null, worldSize = 1): RunPlan {
  const { perDeviceTrainBatchSize, gradientAccumulationSteps, numGenerations, contrast } = config;
  const steps = config.stepsPerGeneration ?? gradientAccumulationSteps;
  const microBatch = perDeviceTrainBatchSize * worldSize;
  const completionsPerUpdate = microBatch * gradientAccumulationSteps;
  const total = totalUpdates(config, rows === null ? null : rows / promptsPerUpdate(config, worldSize));
  return {
    promptsPerGeneration: (microBatch * steps) / numGenerations,
    completionsPerGeneration: microBatch * steps,
    directCompletions: contrast ? Math.round(numGenerations * contrast.share) : 0,
    completionsPerUpdate,
    updatesPerGeneration: (steps * config.numIterations) / gradientAccumulationSteps,
    demonstrationsPerUpdate: config.sftCoefficient > 0 ? (config.sftBatchSize ?? completionsPerUpdate) : 0,
    totalUpdates: total,
    learningRates: total === null ? [] : learningRatesOf(config, total),
  };
}

/** At the first update, around the end of the warm-up, at each quarter and at the last. */
function learningRatesOf(config: GRPOConfig, total: number): RunPlan['learningRates'] {
  const warmup = config.warmupSteps || Math.ceil(config.warmupRatio * total);
  const quarters = [0.25, 0.5, 0.75].map((share) => Math.round(share * total));
  const updates = [1, 2, warmup, warmup + 1, ...quarters, total].filter((update) => update >= 1 && update <= total);
  return [...new Set(updates)]
    .toSorted((a, b) => a - b)
    .map((update) => ({ update, learningRate: learningRateAt(update - 1, total, config) }));
}

/** Bytes on one device, by what they are for. `docs/raif.md` has the formulas. */
export interface MemoryEstimate {
  weights: number;
  reference: number;
  gradients: number;
  optimizer: number;
  activations: number;
  logits: number;
  cache: number;
  total: number;
}

const float = 4;
/** What the built-in engine keeps of keys and values at most, unless told otherwise. */
const cacheLimit = 2 ** 30;

export interface MemoryPlan {
  dtype: 'f32' | 'bf16';
  activations: ActivationDType;
  /** Of the longest prompt. */
  promptTokens: number;
  /** Ranks that share the state of the optimiser when `zeroStage` is 1 or 2. */
  worldSize?: number;
  /** The reference is kept on another device. */
  referenceElsewhere?: boolean;
}

/** The estimate is of the update or of sampling, whichever is larger. */
export function estimateMemory(model: ModelConfig, config: GRPOConfig, plan: MemoryPlan): MemoryEstimate {
  const { dtype, promptTokens, worldSize = 1, referenceElsewhere = false } = plan;
  const count = parameterCount(model);
  const size = bytesPerElement[dtype];
  const activation = bytesPerElement[plan.activations];
  const { hiddenSize, intermediateSize, numHiddenLayers, headDim, vocabSize } = model;
  const queries = model.numAttentionHeads * headDim;
  const keys = model.numKeyValueHeads * headDim;
  const normed = model.modelType === 'qwen3' ? queries + keys : 0;
  const layer = 4 * hiddenSize + 2 * queries + 2 * keys + normed + 3 * intermediateSize;
  const completions = config.perDeviceTrainBatchSize * config.maxCompletionLength;
  const tokens = completions + config.perDeviceTrainBatchSize * promptTokens;
  // One more layer for the gradients on their way back.
  const stored = config.gradientCheckpointing
    ? numHiddenLayers * hiddenSize + 2 * layer
    : numHiddenLayers * layer + layer;
  const activations = activation * tokens * (stored + 2 * hiddenSize);
  const logits = Math.min(config.logitsWorkspaceBytes, float * completions * vocabSize);
  const rows = config.perDeviceTrainBatchSize * (config.stepsPerGeneration ?? config.gradientAccumulationSteps);
  const perToken = 2 * keys * numHiddenLayers * activation;
  const cache = Math.min(cacheLimit, perToken * (rows * config.maxCompletionLength + rows * promptTokens));
  const fixed = {
    weights: size * count,
    reference: config.beta > 0 && !referenceElsewhere ? size * count : 0,
    gradients: float * (config.zeroStage === 2 && worldSize > 1 ? shardedGradients(model, worldSize) : count),
    optimizer: float * (dtype === 'f32' ? 2 : 3) * (config.zeroStage > 0 ? shardLength(count, worldSize) : count),
  };
  const sum = Object.values(fixed).reduce((total, bytes) => total + bytes, 0);
  return { ...fixed, activations, logits, cache, total: sum + Math.max(activations + logits, cache + logits) };
}

/** Elements of ShardedGradients at its peak: a shard, two layers, and an embedding that is the head too. */
function shardedGradients(model: ModelConfig, worldSize: number): number {
  const specs = parameterSpecs(model);
  const sizes = gradientOrder(model).map((prefix) =>
    specs.filter(({ name }) => name.startsWith(prefix)).reduce((sum, { shape }) => sum + elementCount(shape), 0),
  );
  const embedding = model.tieWordEmbeddings ? sizes.pop()! : 0;
  const neighbours = Math.max(...sizes.map((size, i) => size + (sizes[i + 1] ?? 0)));
  return shardLength(parameterCount(model), worldSize) + embedding + neighbours;
}

export function parameterCount(model: ModelConfig): number {
  return parameterSpecs(model).reduce((sum, { shape }) => sum + elementCount(shape), 0);
}
