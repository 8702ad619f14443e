import { completeConfig, type ModelConfig, type ModelShape } from '../../models/config.js';

const qwen1_5B = {
  modelType: 'qwen2',
  vocabSize: 151_936,
  hiddenSize: 1536,
  intermediateSize: 8960,
  numHiddenLayers: 28,
  numAttentionHeads: 12,
  numKeyValueHeads: 2,
  headDim: 128,
} satisfies ModelShape;
const qwen7B = {
  modelType: 'qwen2',
  vocabSize: 152_064,
  hiddenSize: 3584,
  intermediateSize: 18_944,
  numHiddenLayers: 28,
  numAttentionHeads: 28,
  numKeyValueHeads: 4,
  headDim: 128,
  tieWordEmbeddings: false,
} satisfies ModelShape;

/** Shapes of the models that RAIF trained, so that a run can be planned before they are downloaded. */
const shapes: Record<string, ModelShape> = {
  'Qwen2.5-1.5B-Instruct': { ...qwen1_5B, tieWordEmbeddings: true },
  'DeepSeek-R1-Distill-Qwen-1.5B': { ...qwen1_5B, tieWordEmbeddings: false },
  'DeepScaleR-1.5B-Preview': { ...qwen1_5B, tieWordEmbeddings: false },
  'Qwen2.5-7B-Instruct': qwen7B,
  'DeepSeek-R1-Distill-Qwen-7B': qwen7B,
  'Llama-3.1-8B-Instruct': {
    modelType: 'llama',
    vocabSize: 128_256,
    hiddenSize: 4096,
    intermediateSize: 14_336,
    numHiddenLayers: 32,
    numAttentionHeads: 32,
    numKeyValueHeads: 8,
    headDim: 128,
    tieWordEmbeddings: false,
  },
  'Ministral-8B-Instruct-2410': {
    modelType: 'mistral',
    vocabSize: 131_072,
    hiddenSize: 4096,
    intermediateSize: 12_288,
    numHiddenLayers: 36,
    numAttentionHeads: 32,
    numKeyValueHeads: 8,
    headDim: 128,
    tieWordEmbeddings: false,
  },
};

/** Names of the models whose shape is known. */
export const knownModels: readonly string[] = Object.keys(shapes);

/** The shape of a model by the name of its folder; null when it is none of RAIF's. */
export function knownModel(name: string): ModelConfig | null {
  const shape = shapes[name];
  if (!shape) return null;
  return completeConfig(shape, { vocabSize: shape.vocabSize!, bosTokenId: null, eosTokenId: null });
}
