import { CausalLM, type CreateOptions } from '../src/models/causal-lm.js';
import type { ModelShape } from '../src/models/config.js';
import { Tokenizer } from '../src/text/tokenizer.js';

export const tinyShape: ModelShape = {
  hiddenSize: 32,
  intermediateSize: 64,
  numHiddenLayers: 2,
  numAttentionHeads: 4,
  numKeyValueHeads: 2,
  maxPositionEmbeddings: 128,
  tieWordEmbeddings: true,
  initializerRange: 0.2,
};

export const tinyAlphabet = '0123456789+-*=()<>/ abcdefghijklmnopqrstuvwxyz.\n';

/** A model of some 20 thousand weights with one token a character, made without any file. */
export function tinyPolicy(options: CreateOptions, shape: Partial<ModelShape> = {}): CausalLM {
  return CausalLM.create({ ...tinyShape, ...shape }, Tokenizer.fromCharacters(tinyAlphabet), options);
}
