import type { ModelShape } from '../../models/config.js';
import type { GRPOOptions, SFTOptions } from '../../trainer/config.js';

/** A whole answer takes 23 tokens at most, the end token included. */
export const maxCompletionLength = 24;

/** 1.33 million weights. */
export const modelShape: ModelShape = {
  modelType: 'qwen3',
  hiddenSize: 192,
  intermediateSize: 512,
  numHiddenLayers: 3,
  numAttentionHeads: 6,
  numKeyValueHeads: 6,
  headDim: 32,
  maxPositionEmbeddings: 64,
  tieWordEmbeddings: true,
};

/** The clone is measured after this step too, to show that the rest of the cloning changes little. */
export const plateauStep = 150;

export const cloneOptions = {
  maxSteps: 250,
  perDeviceTrainBatchSize: 64,
  learningRate: 2e-3,
  lrSchedulerType: 'cosine',
  warmupSteps: 20,
} satisfies SFTOptions;

export const grpoOptions = {
  maxSteps: 100,
  numGenerations: 8,
  perDeviceTrainBatchSize: 128,
  maxCompletionLength,
  learningRate: 5e-5,
  warmupSteps: 5,
  evalOnStart: true,
  evalSteps: 25,
  perDeviceEvalBatchSize: 256,
} satisfies GRPOOptions;
