import { bytesPerElement } from '../backend/backend.js';
import { InvalidArgumentError } from '../errors.js';
import type { ModelConfig } from '../models/config.js';
import type { Decoder } from '../models/decoder.js';
import { checkIds } from '../models/token-scores.js';
import { seedWords } from '../random.js';
import type { Device } from '../tensor.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { type DecodeRow, DecodeWave, type SamplingOptions } from './decode-wave.js';
import type { Completion, GenerateOptions, RolloutEngine } from './engine.js';
import { StopStrings } from './stop-strings.js';

/** What the engine needs of a policy. */
export interface GeneratingModel {
  readonly config: ModelConfig;
  readonly device: Device;
  readonly decoder: Decoder;
  readonly tokenizer: Tokenizer;
  readonly stopTokenIds: readonly number[];
}

export interface NativeEngineOptions {
  /** Most bytes of keys and values; more prompts than fit are decoded one wave after another. Default 1 GiB. */
  cacheBytes?: number;
  /** Most bytes of logits at a time. Default 256 MiB. */
  workspaceBytes?: number;
}

/** Generates with the policy's own weights, on its device. */
export class NativeEngine implements RolloutEngine {
  readonly #model: GeneratingModel;
  readonly #cacheBytes: number;
  readonly #workspaceBytes: number;

  constructor(model: GeneratingModel, { cacheBytes = 2 ** 30, workspaceBytes = 2 ** 28 }: NativeEngineOptions = {}) {
    if (!(cacheBytes > 0)) throw new InvalidArgumentError('cacheBytes', 'a positive number', cacheBytes);
    if (!(workspaceBytes > 0)) throw new InvalidArgumentError('workspaceBytes', 'a positive number', workspaceBytes);
    this.#model = model;
    this.#cacheBytes = cacheBytes;
    this.#workspaceBytes = workspaceBytes;
  }

  async generate(promptIds: readonly Int32Array[], options: GenerateOptions): Promise<Completion[][]> {
    const { config, device, decoder, tokenizer } = this.#model;
    const { n, sampling, stopTokenIds } = checkOptions(options, this.#model);
    const stopStrings = new StopStrings(tokenizer, options.stop ?? []);
    const rows = promptIds.flatMap((prompt, p) => {
      const limit = Math.min(options.maxNewTokens, config.maxPositionEmbeddings - prompt.length);
      checkPrompt(`prompts[${p}]`, prompt, config, limit);
      return Array.from({ length: n }, (_, sample): DecodeRow => {
        return { prompt, sequence: p * n + sample, limit, ids: [], logProbs: [], end: null };
      });
    });
    const accept = (row: DecodeRow, id: number, logProb: number) => {
      row.ids.push(id);
      row.logProbs.push(logProb);
      const text = stopStrings.cut(row.ids);
      if (stopTokenIds.has(id) || text !== null) row.end = { reason: 'stop', text };
      else if (row.ids.length === row.limit) row.end = { reason: 'length', text: null };
    };
    for (const wave of this.#waves(rows)) {
      options.signal?.throwIfAborted();
      const decoding = new DecodeWave(device, decoder, wave, { ...sampling, workspaceBytes: this.#workspaceBytes });
      try {
        await decoding.run(accept, options.signal);
      } finally {
        decoding.dispose();
      }
    }
    const completions = rows.map(({ ids, logProbs, end }) => ({
      completionIds: Int32Array.from(ids),
      text: end?.text ?? tokenizer.decode(ids),
      logProbs: Float32Array.from(logProbs),
      stopReason: end!.reason,
    }));
    return promptIds.map((_, p) => completions.slice(p * n, (p + 1) * n));
  }

  /** Runs of rows whose keys and values fit the cache together; a single row that is larger has a wave of its own. */
  #waves(rows: readonly DecodeRow[]): DecodeRow[][] {
    const { config } = this.#model;
    const tokenBytes = 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim * bytesPerElement.f32;
    const capacity = Math.floor(this.#cacheBytes / tokenBytes);
    const waves: DecodeRow[][] = [];
    let used = Number.POSITIVE_INFINITY;
    let previous: Int32Array | null = null;
    for (const row of rows) {
      const own = row.limit - 1;
      const needed = own + (row.prompt === previous ? 0 : row.prompt.length);
      if (used + needed > capacity) {
        waves.push([]);
        used = own + row.prompt.length;
      } else {
        used += needed;
      }
      waves.at(-1)!.push(row);
      previous = row.prompt;
    }
    return waves;
  }
}

function checkPrompt(name: string, prompt: Int32Array, config: ModelConfig, limit: number): void {
  if (!(prompt instanceof Int32Array)) throw new InvalidArgumentError(name, 'an Int32Array', prompt);
  if (prompt.length === 0) throw new InvalidArgumentError(name, 'at least one token', prompt);
  checkIds(name, prompt, config.vocabSize);
  if (limit < 1) {
    const expected = `fewer tokens than the model's context of ${config.maxPositionEmbeddings}`;
    throw new InvalidArgumentError(name, expected, `${prompt.length} tokens`);
  }
}

function checkOptions(options: GenerateOptions, model: GeneratingModel) {
  const { maxNewTokens, n = 1, temperature = 1, topK = 0, topP = 1, minP = 0, seed = 0 } = options;
  const whole = (name: string, value: number, least: number) => {
    if (!Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(name, `a whole number of at least ${least}`, value);
    }
  };
  whole('maxNewTokens', maxNewTokens, 1);
  whole('n', n, 1);
  whole('topK', topK, 0);
  whole('seed', seed, Number.MIN_SAFE_INTEGER);
  if (!(temperature >= 0 && Number.isFinite(temperature))) {
    throw new InvalidArgumentError('temperature', 'a number of 0 or more', temperature);
  }
  if (!(topP > 0 && topP <= 1)) throw new InvalidArgumentError('topP', 'a number above 0 and up to 1', topP);
  if (!(minP >= 0 && minP <= 1)) throw new InvalidArgumentError('minP', 'a number from 0 to 1', minP);
  const stopTokenIds = options.stopTokenIds ?? model.stopTokenIds;
  checkIds('stopTokenIds', stopTokenIds, model.config.vocabSize);
  const sampling: Omit<SamplingOptions, 'workspaceBytes'> = { temperature, topK, topP, minP, seed: seedWords(seed) };
  return { n, sampling, stopTokenIds: new Set(stopTokenIds) };
}
