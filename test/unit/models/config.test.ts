import { describe, expect, it } from 'vitest';
import { FileFormatError, InvalidArgumentError, UnsupportedError } from '../../../src/errors.js';
import {
  completeConfig,
  configToJson,
  features,
  inverseFrequencies,
  parseConfig,
  tokenIds,
} from '../../../src/models/config.js';

const llama = {
  model_type: 'llama',
  vocab_size: 100,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  eos_token_id: 2,
};
const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 128 };

describe('config.json', () => {
  it('is read in the style of transformers 4', () => {
    const config = parseConfig({ ...llama, rope_theta: 5e5, rope_scaling: { type: 'llama3', ...llama3 } });
    expect(config).toMatchObject({ ropeTheta: 5e5, headDim: 16, numKeyValueHeads: 2, eosTokenIds: [2] });
    expect(config.ropeScaling).toMatchObject({ factor: 8, originalMaxPositionEmbeddings: 128 });
  });

  it('is read in the style of transformers 5', () => {
    const rope_parameters = { rope_type: 'llama3', rope_theta: 5e5, ...llama3 };
    const old = parseConfig({ ...llama, rope_theta: 5e5, rope_scaling: { rope_type: 'llama3', ...llama3 } });
    expect(parseConfig({ ...llama, rope_parameters })).toEqual(old);
  });

  it.each(['llama', 'qwen2', 'qwen3', 'mistral'])('of %s survives being written', (model_type) => {
    const config = parseConfig({ ...llama, model_type, head_dim: 32, tie_word_embeddings: true, eos_token_id: [2, 3] });
    expect(parseConfig(configToJson(config, 'float32'))).toEqual(config);
  });

  it('says which biases and norms there are', () => {
    const of = (extra: object) => features(parseConfig({ ...llama, ...extra }));
    expect(of({})).toEqual({ qkvBias: false, outputBias: false, qkNorm: false });
    expect(of({ attention_bias: true })).toEqual({ qkvBias: true, outputBias: true, qkNorm: false });
    expect(of({ model_type: 'qwen2' })).toEqual({ qkvBias: true, outputBias: false, qkNorm: false });
    expect(of({ model_type: 'qwen3' })).toEqual({ qkvBias: false, outputBias: false, qkNorm: true });
  });

  it.each([
    [{ model_type: 'gemma3' }, /model_type "gemma3"/],
    [{ hidden_act: 'gelu' }, /hidden_act "gelu"/],
    [{ num_local_experts: 8 }, /mixture of experts/],
    [{ quantization_config: {} }, /quantization_config/],
    [{ attention_dropout: 0.1 }, /attention_dropout 0.1/],
    [{ partial_rotary_factor: 0.5 }, /partial_rotary_factor 0.5/],
    [{ rope_scaling: { rope_type: 'yarn', factor: 4 } }, /rope_type "yarn"/],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, /sliding_attention/],
    [{ model_type: 'mistral', sliding_window: 256 }, /sliding_window 256/],
    [{ model_type: 'mistral', max_position_embeddings: 8192 }, /sliding_window 4096/],
    [{ model_type: 'qwen2', sliding_window: 256, use_sliding_window: true }, /sliding_window 256/],
  ])('with %j is refused by name', (extra, message) => {
    const parse = () => parseConfig({ ...llama, ...extra }, 'm/config.json');
    expect(parse).toThrow(UnsupportedError);
    expect(parse).toThrow(message);
  });

  it('may name a window that is off or wider than the context', () => {
    expect(parseConfig({ ...llama, model_type: 'qwen2', sliding_window: 16, use_sliding_window: false })).toBeTruthy();
    expect(parseConfig({ ...llama, model_type: 'mistral', sliding_window: 512 })).toBeTruthy();
    expect(parseConfig({ ...llama, model_type: 'mistral', sliding_window: null })).toBeTruthy();
  });

  it.each([
    [{ vocab_size: undefined }, /a number for vocab_size/],
    [{ hidden_size: '64' }, /a number for hidden_size, got "64"/],
    [{ num_key_value_heads: 3 }, /a divisor of 4 heads/],
    [{ num_hidden_layers: 0 }, /numHiddenLayers/],
    [{ hidden_size: 66 }, /headDim/],
    [{ eos_token_id: 100 }, /ids below 100/],
    [{ eos_token_id: 'two' }, /token ids for eos_token_id/],
    [{ tie_word_embeddings: 1 }, /a boolean for tie_word_embeddings/],
  ])('with %j is a file error', (extra, message) => {
    const parse = () => parseConfig({ ...llama, ...extra }, 'm/config.json');
    expect(parse).toThrow(FileFormatError);
    expect(parse).toThrow(message);
  });
});

describe('a new model', () => {
  const tokenizer = { vocabSize: 50, bosTokenId: null, eosTokenId: 3 };
  const shape = { hiddenSize: 32, intermediateSize: 64, numHiddenLayers: 1, numAttentionHeads: 4 };

  it('takes vocabulary and stop token from its tokenizer', () => {
    expect(completeConfig(shape, tokenizer)).toMatchObject({ vocabSize: 50, eosTokenIds: [3], headDim: 8 });
  });

  it('takes undefined as not given', () => {
    expect(completeConfig({ ...shape, ropeTheta: undefined }, tokenizer).ropeTheta).toBe(10_000);
  });

  it.each([
    [{ vocabSize: 49 }, /at least the tokenizer's 50/],
    [{ hiddenSize: 30 }, /headDim/],
    [{ modelType: 'gpt2' as never }, /modelType/],
    [{ rmsNormEps: 0 }, /rmsNormEps/],
    [{ modelType: 'mistral' as const, attentionBias: true }, /attentionBias/],
    [{ modelType: 'qwen3' as const, mlpBias: true }, /mlpBias/],
  ])('with %j is refused', (extra, message) => {
    const complete = () => completeConfig({ ...shape, ...extra }, tokenizer);
    expect(complete).toThrow(InvalidArgumentError);
    expect(complete).toThrow(message);
  });
});

it('Llama 3 leaves fast rotations alone, slows slow ones down by the factor, and joins the two', () => {
  const config = parseConfig({ ...llama, rope_parameters: { rope_type: 'llama3', rope_theta: 1e4, ...llama3 } });
  const plain = inverseFrequencies({ ...config, ropeScaling: null });
  const scaled = inverseFrequencies(config);
  expect(plain[0]).toBe(1);
  expect(scaled[0]).toBe(plain[0]);
  expect(scaled.at(-1)! / plain.at(-1)!).toBeCloseTo(1 / 8, 6);
  const ratios = [...scaled].map((x, i) => x / plain[i]!);
  expect(ratios).toEqual(ratios.toSorted((a, b) => b - a));
  expect(ratios.some((r) => r > 0.13 && r < 0.99)).toBe(true);
});

it('token ids may be one, several or none', () => {
  expect(tokenIds(undefined, 'f', 'eos')).toEqual([]);
  expect(tokenIds(null, 'f', 'eos')).toEqual([]);
  expect(tokenIds(5, 'f', 'eos')).toEqual([5]);
  expect(tokenIds([5, 6], 'f', 'eos')).toEqual([5, 6]);
  expect(() => tokenIds([-1], 'f', 'eos')).toThrow(FileFormatError);
});
