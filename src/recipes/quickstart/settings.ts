import type { ModelShape } from '../../models/config.js';
import type { GRPOOptions, SFTOptions } from '../../trainer/config.js';

/** A whole answer takes 23 tokens at most, the end token included. */
export const maxCompletionLength = 24;

/** The model of a quickstart, and its two stages. */
export interface QuickstartSize {
  modelShape: ModelShape;
  clone: SFTOptions & { maxSteps: number };
  grpo: GRPOOptions & { maxSteps: number };
  /** The clone is measured after this step too, to show that the rest of the cloning changes little. */
  plateauStep: number;
  /** Held-out prompts that are answered. */
  heldOut: number;
}

const shapeOfAll = {
  modelType: 'qwen3',
  maxPositionEmbeddings: 64,
  tieWordEmbeddings: true,
} satisfies Partial<ModelShape>;

/** `small` is for adapters that compute WebGPU's shaders on the processor, far slower than the CPU backend. */
export const quickstartSizes = {
  full: {
    // 1.33 million weights.
    modelShape: {
      ...shapeOfAll,
      hiddenSize: 192,
      intermediateSize: 512,
      numHiddenLayers: 3,
      numAttentionHeads: 6,
      numKeyValueHeads: 6,
      headDim: 32,
    },
    clone: {
      maxSteps: 250,
      perDeviceTrainBatchSize: 64,
      learningRate: 2e-3,
      lrSchedulerType: 'cosine',
      warmupSteps: 20,
    },
    grpo: {
      maxSteps: 100,
      numGenerations: 8,
      perDeviceTrainBatchSize: 128,
      maxCompletionLength,
      learningRate: 5e-5,
      warmupSteps: 5,
      evalOnStart: true,
      evalSteps: 25,
      perDeviceEvalBatchSize: 256,
    },
    plateauStep: 150,
    heldOut: 256,
  },
  small: {
    // 0.11 million weights.
    modelShape: {
      ...shapeOfAll,
      hiddenSize: 64,
      intermediateSize: 192,
      numHiddenLayers: 2,
      numAttentionHeads: 2,
      numKeyValueHeads: 2,
      headDim: 32,
    },
    clone: {
      maxSteps: 400,
      perDeviceTrainBatchSize: 64,
      learningRate: 7e-3,
      lrSchedulerType: 'cosine',
      warmupSteps: 20,
    },
    grpo: {
      maxSteps: 60,
      numGenerations: 8,
      perDeviceTrainBatchSize: 64,
      maxCompletionLength,
      learningRate: 3e-4,
      warmupSteps: 5,
      evalOnStart: false,
      perDeviceEvalBatchSize: 64,
    },
    plateauStep: 300,
    heldOut: 64,
  },
} satisfies Record<string, QuickstartSize>;
