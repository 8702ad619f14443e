import { FileFormatError, InvalidArgumentError, UnsupportedError } from '../errors.js';

export const modelTypes = ['llama', 'qwen2', 'qwen3', 'mistral'] as const;
export type ModelType = (typeof modelTypes)[number];

/** Llama 3's stretching of the rotary frequencies. */
export interface Llama3RopeScaling {
  factor: number;
  lowFreqFactor: number;
  highFreqFactor: number;
  originalMaxPositionEmbeddings: number;
}

/** The shape of a decoder. Names are those of `config.json`, in camelCase. */
export interface ModelConfig {
  modelType: ModelType;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling: Llama3RopeScaling | null;
  tieWordEmbeddings: boolean;
  /** Llama and Qwen3: biases on all four projections of attention. (Qwen2 always has them on three, Mistral never.) */
  attentionBias: boolean;
  /** Llama: biases on the projections of the MLP. */
  mlpBias: boolean;
  /** Standard deviation of fresh matrices. */
  initializerRange: number;
  bosTokenId: number | null;
  eosTokenIds: readonly number[];
}

/** What `CausalLM.create` needs to know; the rest has defaults. */
export type ModelShape = Pick<
  ModelConfig,
  'hiddenSize' | 'intermediateSize' | 'numHiddenLayers' | 'numAttentionHeads'
> &
  Partial<ModelConfig>;

/** Which optional weights a model has. */
export function features(config: ModelConfig): { qkvBias: boolean; outputBias: boolean; qkNorm: boolean } {
  return {
    qkvBias: config.attentionBias || config.modelType === 'qwen2',
    outputBias: config.attentionBias,
    qkNorm: config.modelType === 'qwen3',
  };
}

/** Fills in defaults and checks the shape. `tokenizer` gives vocabulary size and special ids where `shape` does not. */
export function completeConfig(
  shape: ModelShape,
  tokenizer: { vocabSize: number; bosTokenId: number | null; eosTokenId: number | null },
): ModelConfig {
  const given = Object.fromEntries(Object.entries(shape).filter(([, value]) => value !== undefined)) as ModelShape;
  const config: ModelConfig = {
    modelType: 'llama',
    vocabSize: tokenizer.vocabSize,
    numKeyValueHeads: shape.numAttentionHeads,
    headDim: shape.hiddenSize / shape.numAttentionHeads,
    maxPositionEmbeddings: 2048,
    rmsNormEps: 1e-6,
    ropeTheta: 10_000,
    ropeScaling: null,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    initializerRange: 0.02,
    bosTokenId: tokenizer.bosTokenId,
    eosTokenIds: tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId],
    ...given,
  };
  checkConfig(config, (name, expected, got) => new InvalidArgumentError(name, expected, got));
  if (config.vocabSize < tokenizer.vocabSize) {
    throw new InvalidArgumentError('vocabSize', `at least the tokenizer's ${tokenizer.vocabSize}`, config.vocabSize);
  }
  return config;
}

type Problem = (name: string, expected: string, got: unknown) => Error;

function checkConfig(config: ModelConfig, problem: Problem): void {
  if (!modelTypes.includes(config.modelType)) throw problem('modelType', modelTypes.join(', '), config.modelType);
  const counts = [
    'vocabSize',
    'hiddenSize',
    'intermediateSize',
    'numHiddenLayers',
    'numAttentionHeads',
    'numKeyValueHeads',
    'headDim',
    'maxPositionEmbeddings',
  ] as const;
  for (const name of counts) {
    const value = config[name];
    if (!Number.isSafeInteger(value) || value < 1) throw problem(name, 'a whole number of at least 1', value);
  }
  for (const name of ['rmsNormEps', 'ropeTheta', 'initializerRange'] as const) {
    if (!(config[name] > 0 && Number.isFinite(config[name]))) throw problem(name, 'a positive number', config[name]);
  }
  if (config.headDim % 2 !== 0) throw problem('headDim', 'an even number', config.headDim);
  if (config.numAttentionHeads % config.numKeyValueHeads !== 0) {
    throw problem('numKeyValueHeads', `a divisor of ${config.numAttentionHeads} heads`, config.numKeyValueHeads);
  }
  if (config.attentionBias && (config.modelType === 'qwen2' || config.modelType === 'mistral')) {
    throw problem('attentionBias', `false for ${config.modelType}`, true);
  }
  if (config.mlpBias && config.modelType !== 'llama') throw problem('mlpBias', `false for ${config.modelType}`, true);
  for (const id of config.eosTokenIds) {
    if (!Number.isSafeInteger(id) || id < 0 || id >= config.vocabSize) {
      throw problem('eosTokenIds', `ids below ${config.vocabSize}`, id);
    }
  }
}

/**
 * Frequencies of the rotary embedding, [headDim / 2]. The scaling of Llama 3 leaves short wave lengths alone, divides the
 * frequencies of long ones by `factor`, and interpolates between.
 */
export function inverseFrequencies(config: ModelConfig): Float32Array {
  const { headDim, ropeTheta, ropeScaling } = config;
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => ropeTheta ** ((-2 * i) / headDim));
  if (!ropeScaling) return plain;
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings: context } = ropeScaling;
  return plain.map((frequency) => {
    const turns = (context * frequency) / (2 * Math.PI);
    if (turns < lowFreqFactor) return frequency / factor;
    if (turns > highFreqFactor) return frequency;
    const smooth = (turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

// ---- config.json --------------------------------------------------------------------------------------------------------

type Json = Record<string, unknown>;

/** Reads a `config.json` of transformers 4 or 5. What this library cannot compute raises an `UnsupportedError`. */
export function parseConfig(json: Json, file = 'config.json'): ModelConfig {
  const read = new Reader(json, file);
  const modelType = read.text('model_type') as ModelType;
  if (!modelTypes.includes(modelType)) {
    throw new UnsupportedError(`model_type "${modelType}" (${file})`, 'CausalLM', `It reads ${modelTypes.join(', ')}.`);
  }
  rejectUnsupported(json, modelType, file);
  const heads = read.number('num_attention_heads');
  const hiddenSize = read.number('hidden_size');
  const maxPositionEmbeddings = read.number('max_position_embeddings');
  const config: ModelConfig = {
    modelType,
    vocabSize: read.number('vocab_size'),
    hiddenSize,
    intermediateSize: read.number('intermediate_size'),
    numHiddenLayers: read.number('num_hidden_layers'),
    numAttentionHeads: heads,
    numKeyValueHeads: read.number('num_key_value_heads', heads),
    headDim: read.number('head_dim', modelType === 'qwen3' ? 128 : hiddenSize / heads),
    maxPositionEmbeddings,
    rmsNormEps: read.number('rms_norm_eps', 1e-6),
    ...parseRope(read, file),
    tieWordEmbeddings: read.flag('tie_word_embeddings', false),
    attentionBias: (modelType === 'llama' || modelType === 'qwen3') && read.flag('attention_bias', false),
    mlpBias: modelType === 'llama' && read.flag('mlp_bias', false),
    initializerRange: read.number('initializer_range', 0.02),
    bosTokenId: tokenIds(json.bos_token_id, file, 'bos_token_id')[0] ?? null,
    eosTokenIds: tokenIds(json.eos_token_id, file, 'eos_token_id'),
  };
  checkConfig(
    config,
    (name, expected, got) => new FileFormatError(file, `expected ${expected} for ${name}, got ${got}`),
  );
  return config;
}

/** One id, a list or nothing, as `config.json` and `generation_config.json` write them. */
export function tokenIds(value: unknown, file: string, name: string): number[] {
  const list = value === undefined || value === null ? [] : Array.isArray(value) ? value : [value];
  for (const id of list) {
    if (!Number.isSafeInteger(id) || id < 0) {
      throw new FileFormatError(file, `expected token ids for ${name}, got ${JSON.stringify(id)}`);
    }
  }
  return list;
}

function rejectUnsupported(json: Json, modelType: ModelType, file: string): void {
  const reject = (what: string): never => {
    throw new UnsupportedError(`${what} (${file})`, 'CausalLM');
  };
  const activation = json.hidden_act ?? 'silu';
  if (activation !== 'silu' && activation !== 'swish') reject(`hidden_act "${activation}"`);
  if (json.quantization_config) reject('quantization_config');
  if (json.num_experts || json.num_local_experts) reject('A mixture of experts (num_experts)');
  if (json.attention_dropout) reject(`attention_dropout ${json.attention_dropout}`);
  const partial = json.partial_rotary_factor ?? (json.rope_parameters as Json | undefined)?.partial_rotary_factor ?? 1;
  if (partial !== 1) reject(`partial_rotary_factor ${partial}`);
  const types = Array.isArray(json.layer_types) ? json.layer_types : [];
  const other = types.find((type) => type !== 'full_attention');
  if (other !== undefined) reject(`layer_types with "${other}"`);
  // Qwen carries a window that is off unless use_sliding_window says otherwise. Mistral's is on: 4096 when unnamed.
  const mistral = modelType === 'mistral';
  const window = json.sliding_window === undefined && mistral ? 4096 : json.sliding_window;
  const on = mistral || json.use_sliding_window === true;
  if (on && typeof window === 'number' && window < Number(json.max_position_embeddings)) {
    reject(`sliding_window ${window} below max_position_embeddings ${json.max_position_embeddings}`);
  }
}

/** transformers 5 keeps theta and scaling in `rope_parameters`, transformers 4 in `rope_theta` and `rope_scaling`. */
function parseRope(read: Reader, file: string): Pick<ModelConfig, 'ropeTheta' | 'ropeScaling'> {
  const { json } = read;
  const scaling = (json.rope_parameters ?? json.rope_scaling ?? {}) as Json;
  const rope = new Reader(scaling, file);
  const ropeTheta = rope.number('rope_theta', read.number('rope_theta', 10_000));
  const type = scaling.rope_type ?? scaling.type ?? 'default';
  if (type === 'default') return { ropeTheta, ropeScaling: null };
  if (type !== 'llama3') {
    throw new UnsupportedError(`rope_type "${type}" (${file})`, 'CausalLM', 'It reads default and llama3.');
  }
  const ropeScaling = {
    factor: rope.number('factor'),
    lowFreqFactor: rope.number('low_freq_factor'),
    highFreqFactor: rope.number('high_freq_factor'),
    originalMaxPositionEmbeddings: rope.number('original_max_position_embeddings'),
  };
  return { ropeTheta, ropeScaling };
}

class Reader {
  constructor(
    readonly json: Json,
    readonly file: string,
  ) {}

  text(name: string): string {
    return this.#value(name, 'string') as string;
  }

  number(name: string, fallback?: number): number {
    return this.#value(name, 'number', fallback) as number;
  }

  flag(name: string, fallback: boolean): boolean {
    return this.#value(name, 'boolean', fallback) as boolean;
  }

  #value(name: string, type: string, fallback?: unknown): unknown {
    const value = this.json[name] ?? fallback;
    if (typeof value !== type) {
      throw new FileFormatError(this.file, `expected a ${type} for ${name}, got ${JSON.stringify(value)}`);
    }
    return value;
  }
}

const architectures: Record<ModelType, string> = {
  llama: 'LlamaForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
  qwen3: 'Qwen3ForCausalLM',
  mistral: 'MistralForCausalLM',
};

/** What `config.json` says of this model. Written as transformers 4 does, which 5 reads too. */
export function configToJson(config: ModelConfig, dtype: string): Json {
  const scaling = config.ropeScaling;
  const eos = config.eosTokenIds;
  return {
    architectures: [architectures[config.modelType]],
    model_type: config.modelType,
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    hidden_act: 'silu',
    max_position_embeddings: config.maxPositionEmbeddings,
    rms_norm_eps: config.rmsNormEps,
    rope_theta: config.ropeTheta,
    rope_scaling: scaling && {
      rope_type: 'llama3',
      factor: scaling.factor,
      low_freq_factor: scaling.lowFreqFactor,
      high_freq_factor: scaling.highFreqFactor,
      original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
    },
    tie_word_embeddings: config.tieWordEmbeddings,
    attention_bias: config.attentionBias,
    ...(config.modelType === 'llama' ? { mlp_bias: config.mlpBias } : {}),
    ...(config.modelType === 'mistral' ? { sliding_window: null } : {}),
    initializer_range: config.initializerRange,
    attention_dropout: 0,
    use_cache: true,
    bos_token_id: config.bosTokenId,
    eos_token_id: eos.length > 1 ? eos : (eos[0] ?? null),
    torch_dtype: dtype,
  };
}
