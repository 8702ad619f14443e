import { InvalidArgumentError } from '../errors.js';
import type { ModelConfig } from '../models/config.js';
import type { Decoder } from '../models/decoder.js';
import { checkIds } from '../models/token-scores.js';
import { seedWords } from '../random.js';
import type { Device } from '../tensor.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { Sampling } from './decode-operations.js';
import type { DecodeRow } from './decode-wave.js';
import type { Completion, GenerateOptions } from './engine.js';
import type { StopStrings } from './stop-strings.js';

/** What an engine needs of a policy. */
export interface GeneratingModel {
  readonly config: ModelConfig;
  readonly device: Device;
  readonly decoder: Decoder;
  readonly tokenizer: Tokenizer;
  readonly stopTokenIds: readonly number[];
}

/** What ends a completion. */
export interface Stops {
  tokenIds: ReadonlySet<number>;
  strings: StopStrings;
}

/** Takes a sampled token into its row, and ends the row where it must. */
export function acceptToken(row: DecodeRow, id: number, logProb: number, stops: Stops): void {
  row.ids.push(id);
  row.logProbs.push(logProb);
  const text = stops.strings.cut(row.ids);
  if (stops.tokenIds.has(id) || text !== null) row.end = { reason: 'stop', text };
  else if (row.ids.length === row.limit) row.end = { reason: 'length', text: null };
}

/** The completion of a row that has ended. */
export function completionOf({ ids, logProbs, end }: DecodeRow, tokenizer: Tokenizer): Completion {
  return {
    completionIds: Int32Array.from(ids),
    text: end?.text ?? tokenizer.decode(ids),
    logProbs: Float32Array.from(logProbs),
    stopReason: end!.reason,
  };
}

export function checkPrompt(name: string, prompt: Int32Array, config: ModelConfig, limit: number): void {
  if (!(prompt instanceof Int32Array)) throw new InvalidArgumentError(name, 'an Int32Array', prompt);
  if (prompt.length === 0) throw new InvalidArgumentError(name, 'at least one token', prompt);
  checkIds(name, prompt, config.vocabSize);
  if (limit < 1) {
    const expected = `fewer tokens than the model's context of ${config.maxPositionEmbeddings}`;
    throw new InvalidArgumentError(name, expected, `${prompt.length} tokens`);
  }
}

export function checkOptions(
  options: GenerateOptions,
  model: GeneratingModel,
): { n: number; sampling: Sampling; stopTokenIds: ReadonlySet<number> } {
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
  whole('firstPrompt', options.firstPrompt ?? 0, 0);
  if (!(temperature >= 0 && Number.isFinite(temperature))) {
    throw new InvalidArgumentError('temperature', 'a number of 0 or more', temperature);
  }
  if (!(topP > 0 && topP <= 1)) throw new InvalidArgumentError('topP', 'a number above 0 and up to 1', topP);
  if (!(minP >= 0 && minP <= 1)) throw new InvalidArgumentError('minP', 'a number from 0 to 1', minP);
  const stopTokenIds = options.stopTokenIds ?? model.stopTokenIds;
  checkIds('stopTokenIds', stopTokenIds, model.config.vocabSize);
  const sampling: Sampling = { temperature, topK, topP, minP, seed: seedWords(seed) };
  return { n, sampling, stopTokenIds: new Set(stopTokenIds) };
}
