import { InvalidArgumentError } from '../errors.js';
import { cacheBytesPerToken } from './decode-operations.js';
import { type DecodeRow, DecodeWave } from './decode-wave.js';
import type { Completion, GenerateOptions, RolloutEngine } from './engine.js';
import { acceptToken, checkOptions, checkPrompt, completionOf, type GeneratingModel } from './request.js';
import { StopStrings } from './stop-strings.js';

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
    const { firstPrompt = 0 } = options;
    const stops = { tokenIds: stopTokenIds, strings: new StopStrings(tokenizer, options.stop ?? []) };
    const rows = promptIds.flatMap((prompt, p) => {
      const limit = Math.min(options.maxNewTokens, config.maxPositionEmbeddings - prompt.length);
      checkPrompt(`prompts[${p}]`, prompt, config, limit);
      return Array.from({ length: n }, (_, sample): DecodeRow => {
        return { prompt, sequence: (firstPrompt + p) * n + sample, limit, ids: [], logProbs: [], end: null };
      });
    });
    for (const wave of this.#waves(rows)) {
      options.signal?.throwIfAborted();
      const decoding = new DecodeWave(device, decoder, wave, { ...sampling, workspaceBytes: this.#workspaceBytes });
      try {
        await decoding.run((row, id, logProb) => acceptToken(row, id, logProb, stops), options.signal);
      } finally {
        decoding.dispose();
      }
    }
    const completions = rows.map((row) => completionOf(row, tokenizer));
    return promptIds.map((_, p) => completions.slice(p * n, (p + 1) * n));
  }

  /** Runs of rows whose keys and values fit the cache together; a single row that is larger has a wave of its own. */
  #waves(rows: readonly DecodeRow[]): DecodeRow[][] {
    const capacity = Math.floor(this.#cacheBytes / cacheBytesPerToken(this.#model.decoder));
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
