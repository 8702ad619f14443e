import type { DType } from '../backend/backend.js';
import type { ChatMessage } from '../data/prompts.js';
import { DisposedError, FileFormatError, InvalidArgumentError } from '../errors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import { normals } from '../random.js';
import type { Completion, GenerateOptions } from '../rollout/engine.js';
import { NativeEngine } from '../rollout/native-engine.js';
import type { Device } from '../tensor.js';
import { Tokenizer } from '../text/tokenizer.js';
import { type ActivationDType, activationsOf } from './activations.js';
import { completeConfig, configToJson, type ModelConfig, type ModelShape, parseConfig, tokenIds } from './config.js';
import { Decoder, parameterSpecs } from './decoder.js';
import { Parameters } from './parameters.js';
import { readModelTensors, writeSafetensors } from './safetensors.js';
import { type ScoreOptions, TokenScores, type TokenSequence } from './token-scores.js';

export type Prompt = string | readonly ChatMessage[] | Int32Array | readonly number[];
export type WeightDType = Exclude<DType, 'i32'>;

const dtypeNames: Record<WeightDType, string> = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' };

export interface LoadOptions {
  device: Device;
  /** dtype of the weights on the device. Default: the one that the folder's config.json names. */
  dtype?: WeightDType;
  /** dtype of activations, their gradients, keys and values. Default: bf16 for bf16 weights on CUDA, else f32. */
  activations?: ActivationDType | null;
  files?: FileSystem;
}

export interface CreateOptions {
  device: Device;
  seed?: number;
  /** Default f32. */
  dtype?: WeightDType;
  /** As `load` takes it. */
  activations?: ActivationDType | null;
}

type Json = Record<string, unknown>;

interface Parts {
  config: ModelConfig;
  tokenizer: Tokenizer;
  device: Device;
  dtype: WeightDType;
  activations: ActivationDType;
  /** config.json and generation_config.json as `save` writes them, apart from the dtype. */
  configJson: Json;
  generationJson: Json;
  stopTokenIds: readonly number[];
}

/**
 * A decoder-only language model with its tokenizer: Llama, Qwen2, Qwen3 or Mistral. Its parameters are frozen until
 * `parameters.enableGradients()`.
 */
export class CausalLM {
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly device: Device;
  readonly parameters: Parameters;
  /** The network, for engines and scores. */
  readonly decoder: Decoder;
  /** Ids that end a completion: those of generation_config.json, else of config.json, else the tokenizer's. */
  readonly stopTokenIds: readonly number[];
  readonly #parts: Parts;
  #disposed = false;

  private constructor(parts: Parts) {
    this.#parts = parts;
    this.config = parts.config;
    this.tokenizer = parts.tokenizer;
    this.device = parts.device;
    this.stopTokenIds = parts.stopTokenIds;
    this.parameters = new Parameters(parts.device, parts.dtype, parameterSpecs(parts.config));
    this.decoder = new Decoder(parts.config, this.parameters, parts.activations);
  }

  /** Reads a folder as Hugging Face writes it. */
  static async load(folder: string, options: LoadOptions): Promise<CausalLM> {
    const { device, files = fileSystem() } = options;
    const configFile = `${folder}/config.json`;
    const generationFile = `${folder}/generation_config.json`;
    const configJson = await readJsonObject(configFile, files);
    const config = parseConfig(configJson, configFile);
    const generationJson = (await files.exists(generationFile)) ? await readJsonObject(generationFile, files) : {};
    const tokenizer = await Tokenizer.load(folder, files);
    const stop = tokenIds(generationJson.eos_token_id, generationFile, 'eos_token_id');
    const dtype = options.dtype ?? dtypeOf(configJson, configFile);
    const policy = new CausalLM({
      config,
      tokenizer,
      device,
      dtype,
      activations: activationsOf(options.activations, device.kind, dtype),
      configJson,
      generationJson,
      stopTokenIds: stop.length > 0 ? stop : stopIdsOf(config, tokenizer),
    });
    try {
      await policy.#readWeights(folder, files);
      return policy;
    } catch (error) {
      policy.dispose();
      throw error;
    }
  }

  /** Fresh weights: matrices normal(0, initializerRange), norms 1, biases 0. */
  static create(shape: ModelShape, tokenizer: Tokenizer, options: CreateOptions): CausalLM {
    const { device, seed = 0, dtype = 'f32' } = options;
    if (!Number.isSafeInteger(seed)) throw new InvalidArgumentError('seed', 'a whole number', seed);
    const config = completeConfig(shape, tokenizer);
    const policy = new CausalLM({
      config,
      tokenizer,
      device,
      dtype,
      activations: activationsOf(options.activations, device.kind, dtype),
      configJson: configToJson(config, dtypeNames[dtype]),
      generationJson: {},
      stopTokenIds: stopIdsOf(config, tokenizer),
    });
    let stream = 0;
    for (const { name, value } of policy.parameters) {
      if (value.shape.length === 1) {
        device.run('fill', { out: value, value: name.endsWith('.bias') ? 0 : 1 });
      } else {
        value.write(normals(value.size, seed, stream).map((x) => x * config.initializerRange));
      }
      stream++;
    }
    return policy;
  }

  /** Log-probs of the completions' tokens, queued on the device, with what backward needs if asked. */
  score(sequences: readonly TokenSequence[], options: ScoreOptions = {}): TokenScores {
    this.#check();
    if (options.gradients && this.parameters.frozen) {
      throw new InvalidArgumentError('gradients', 'false, since the parameters are frozen', true);
    }
    return new TokenScores(this.device, this.decoder, sequences, options);
  }

  /** Log-probs of each completion's tokens. */
  async logProbs(
    sequences: readonly TokenSequence[],
    { temperature, workspaceBytes }: Pick<ScoreOptions, 'temperature' | 'workspaceBytes'> = {},
  ): Promise<Float32Array[]> {
    const scores = this.score(sequences, { temperature, workspaceBytes });
    try {
      const packed = (await scores.logProbs.read()) as Float32Array;
      const { sequenceOffsets } = scores;
      return sequences.map((_, b) => packed.slice(sequenceOffsets[b]!, sequenceOffsets[b + 1]!));
    } finally {
      scores.dispose();
    }
  }

  /** `n` completions of each prompt, in the order of the prompts. */
  async generate(prompts: readonly Prompt[], options: GenerateOptions): Promise<Completion[][]> {
    this.#check();
    const promptIds = prompts.map((prompt) => this.tokenizer.encodePrompt(prompt));
    return new NativeEngine(this).generate(promptIds, options);
  }

  /** Writes a folder that transformers loads. Each file is replaced whole. */
  async save(folder: string, files: FileSystem = fileSystem()): Promise<void> {
    this.#check();
    const { configJson, generationJson } = this.#parts;
    const dtype = this.parameters.dtype as WeightDType;
    const dtypeKey = 'dtype' in configJson ? 'dtype' : 'torch_dtype';
    const json = (value: Json) => `${JSON.stringify(value, null, 2)}\n`;
    await files.makeFolder(folder);
    const tensors = [...this.parameters].map(({ name, value }) => ({
      name,
      dtype,
      shape: value.shape,
      read: () => value.readBytes(),
    }));
    await writeSafetensors(`${folder}/model.safetensors`, tensors, { format: 'pt' }, files);
    const stop = this.stopTokenIds.length > 0 ? { eos_token_id: this.stopTokenIds } : {};
    const texts = {
      ...this.tokenizer.files(),
      'generation_config.json': json({ ...generationJson, ...stop }),
      'config.json': json({ ...configJson, [dtypeKey]: dtypeNames[dtype] }),
    };
    for (const [name, text] of Object.entries(texts)) await files.writeAtomic(`${folder}/${name}`, text);
  }

  /** A copy with its own weights. `frozen` (default true) allocates no gradients: a reference policy. */
  clone({ frozen = true }: { frozen?: boolean } = {}): CausalLM {
    this.#check();
    const copy = new CausalLM(this.#parts);
    copy.parameters.copyFrom(this.parameters);
    if (!frozen) copy.parameters.enableGradients();
    return copy;
  }

  /** A frozen copy on another device. */
  async cloneTo(device: Device): Promise<CausalLM> {
    this.#check();
    const copy = new CausalLM({ ...this.#parts, device });
    try {
      copy.parameters.flat.writeBytes(await this.parameters.flat.readBytes());
      return copy;
    } catch (error) {
      copy.dispose();
      throw error;
    }
  }

  dispose(): void {
    this.#disposed = true;
    this.decoder.dispose();
    this.parameters.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #check(): void {
    if (this.#disposed) throw new DisposedError('A policy');
  }

  async #readWeights(folder: string, files: FileSystem): Promise<void> {
    const stored = await readModelTensors(folder, files);
    for (const { name, value } of this.parameters) {
      const tensor = stored.get(name);
      if (!tensor) throw new FileFormatError(folder, `the weight ${name} is missing`);
      const { file, shape, dtype, offset, bytes } = tensor;
      if (shape.length !== value.shape.length || shape.some((n, i) => n !== value.shape[i])) {
        throw new FileFormatError(file, `${name} has shape [${shape.join(',')}], expected [${value.shape.join(',')}]`);
      }
      const data = await files.readRange(file, offset, bytes);
      stored.delete(name);
      if (dtype === value.dtype) {
        value.writeBytes(data);
        continue;
      }
      const source = this.device.empty(shape, dtype);
      source.writeBytes(data);
      this.device.run('copy', { in: source, out: value });
      source.dispose();
    }
    for (const { name, file } of stored.values()) {
      if (!mayBeLeftOver(name, this.config)) throw new FileFormatError(file, `the model has no weight ${name}`);
    }
  }
}

/** Weights that files may hold although the model has them elsewhere, or computes them. */
function mayBeLeftOver(name: string, config: ModelConfig): boolean {
  return (name === 'lm_head.weight' && config.tieWordEmbeddings) || name.endsWith('.rotary_emb.inv_freq');
}

function stopIdsOf(config: ModelConfig, tokenizer: Tokenizer): readonly number[] {
  if (config.eosTokenIds.length > 0) return config.eosTokenIds;
  return tokenizer.eosTokenId === null ? [] : [tokenizer.eosTokenId];
}

/** `dtype` (transformers 5) or `torch_dtype` (4), with or without the module's name. */
function dtypeOf(json: Json, file: string): WeightDType {
  const name = String(json.dtype ?? json.torch_dtype ?? 'float32').replace('torch.', '');
  const found = Object.entries(dtypeNames).find(([, text]) => text === name);
  if (!found)
    throw new FileFormatError(file, `expected ${Object.values(dtypeNames).join(', ')} for dtype, got ${name}`);
  return found[0] as WeightDType;
}
