import { DisposedError, GrpoError, InvalidArgumentError } from '../errors.js';
import { checkIds } from '../models/token-scores.js';
import { Scope, type Tensor } from '../tensor.js';
import {
  type CachePlace,
  cacheBytesPerToken,
  DecodeOperations,
  type PrefillPrompt,
  type RecordedStep,
  type SampledRow,
  type SampledTokens,
  type Sampling,
  silent,
} from './decode-operations.js';
import type { DecodeRow } from './decode-wave.js';
import type { Completion, GenerateOptions } from './engine.js';
import { type AlternativeToken, likeliestTokens } from './likeliest-tokens.js';
import { acceptToken, checkOptions, checkPrompt, completionOf, type GeneratingModel, type Stops } from './request.js';
import { StopStrings } from './stop-strings.js';
import { TokenRanges } from './token-ranges.js';

export interface DecodeSchedulerOptions {
  /** Most bytes of keys and values. Default 1 GiB. */
  cacheBytes?: number;
  /** Most bytes of logits at a time. Default 256 MiB. */
  workspaceBytes?: number;
  /** Most completions that are decoded together. Default 256. */
  maxBatch?: number;
  /** Most completions that wait for room; a request beyond is refused with a `QueueFullError`. Default 1024. */
  maxQueue?: number;
}

/** A token of a completion, as soon as it is known. */
export interface TokenEvent {
  /** Which of the `n` completions. */
  sample: number;
  id: number;
  logProb: number;
  /** The likeliest tokens at this place, as many as were asked for. */
  alternatives: AlternativeToken[];
  /** The completion so far. */
  ids: readonly number[];
  /** Set with the last token: the text of the whole completion. */
  end: { reason: 'stop' | 'length'; text: string } | null;
}

export interface SequenceRequest extends GenerateOptions {
  /** Added to the logits of these ids, before the temperature. */
  logitBias?: ReadonlyMap<number, number>;
  /** How many likely tokens to give beside each sampled one. Default 0. */
  alternatives?: number;
  /** Index of the prompt among those of a call: completions equal those of `NativeEngine` for that prompt. Default 0. */
  promptIndex?: number;
  onToken?: (event: TokenEvent) => void;
}

/** Too much waits already. */
export class QueueFullError extends GrpoError {
  constructor(waiting: number, limit: number) {
    super('GRPO_QUEUE_FULL', `${waiting} completions wait already, the queue takes ${limit}`);
  }
}

/** What a step reads back, one entry a row. */
interface SampledValues {
  ids: Int32Array;
  logProbs: Float32Array;
  logits: (Float32Array | null)[];
}

interface Pending {
  readonly prompt: Int32Array;
  readonly sampling: Sampling;
  readonly stops: Stops;
  readonly rows: Row[];
  readonly request: SequenceRequest;
  bias: Tensor | null;
  /** Rows that were given a place. */
  admitted: number;
  resolve(completions: Completion[]): void;
  reject(error: unknown): void;
  stopListening(): void;
  settled: boolean;
}

interface Row extends DecodeRow {
  readonly owner: Pending;
  readonly sample: number;
  place: Place | null;
}

/** What a row holds of the cache. Rows that were admitted together share their prompt. */
interface Place {
  prompt: { start: number; length: number; users: number };
  own: { start: number; length: number };
}

/** The rows of the last step, and that step as it was recorded when they came a second time. */
interface Repeated {
  rows: readonly Row[];
  step: RecordedStep | null;
}

/**
 * Decodes what is asked for as it comes (continuous batching): a request joins at the next token, as soon as the cache
 * has room for its longest outcome, in the order of arrival. A completion is the same whatever else is decoded.
 */
export class DecodeScheduler {
  readonly #model: GeneratingModel;
  readonly #operations: DecodeOperations;
  readonly #ranges: TokenRanges;
  readonly #maxBatch: number;
  readonly #maxQueue: number;
  readonly #waiting: Pending[] = [];
  #running: Row[] = [];
  #repeated: Repeated | null = null;
  #loop: Promise<void> | null = null;
  #pauses = 0;
  #idleWaiters: (() => void)[] = [];
  #closed = false;

  constructor(model: GeneratingModel, options: DecodeSchedulerOptions = {}) {
    const { cacheBytes = 2 ** 30, workspaceBytes = 2 ** 28, maxBatch = 256, maxQueue = 1024 } = options;
    for (const [name, value] of Object.entries({ cacheBytes, workspaceBytes, maxBatch })) {
      if (!(value > 0)) throw new InvalidArgumentError(name, 'a positive number', value);
    }
    if (!(maxQueue >= 0)) throw new InvalidArgumentError('maxQueue', 'a number of 0 or more', maxQueue);
    const affordable = Math.floor(cacheBytes / cacheBytesPerToken(model.decoder));
    const capacity = Math.min(affordable, maxBatch * model.config.maxPositionEmbeddings);
    if (capacity < 1) throw new InvalidArgumentError('cacheBytes', 'room for at least one token', cacheBytes);
    this.#model = model;
    this.#maxBatch = maxBatch;
    this.#maxQueue = maxQueue;
    this.#ranges = new TokenRanges(capacity);
    this.#operations = new DecodeOperations(model.device, model.decoder, capacity, workspaceBytes);
  }

  /** Completions that are decoded, and that wait. */
  get load(): { running: number; waiting: number } {
    const waiting = this.#waiting.reduce((sum, { rows, admitted }) => sum + rows.length - admitted, 0);
    return { running: this.#running.length, waiting };
  }

  /**
   * The `n` completions of a prompt. Throws at once what is wrong with the request, and a `QueueFullError`; an abort of
   * `request.signal` rejects with its reason and gives the place to others.
   */
  submit(prompt: Int32Array, request: SequenceRequest): Promise<Completion[]> {
    if (this.#closed) throw new DisposedError('A scheduler');
    const pending = this.#check(prompt, request);
    const { waiting } = this.load;
    // An empty queue takes any request, else one with a large n could never be asked for.
    if (waiting > 0 && waiting + pending.rows.length > this.#maxQueue)
      throw new QueueFullError(waiting, this.#maxQueue);
    return new Promise((resolve, reject) => {
      Object.assign(pending, { resolve, reject });
      this.#waiting.push(pending);
      const { signal } = request;
      const abort = () => this.#fail(pending, signal!.reason);
      pending.stopListening = () => signal?.removeEventListener('abort', abort);
      if (signal?.aborted) abort();
      else signal?.addEventListener('abort', abort);
      this.#loop ??= this.#run();
    });
  }

  /** Lets what runs come to its end and nothing new begin, calls `work`, and goes on. */
  async whilePaused<T>(work: () => Promise<T>): Promise<T> {
    this.#pauses++;
    try {
      if (this.#running.length > 0) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
      return await work();
    } finally {
      if (--this.#pauses === 0 && this.#waiting.length > 0) this.#loop ??= this.#run();
    }
  }

  /** Resolves when nothing runs or waits any more. */
  async idle(): Promise<void> {
    while (this.#loop) await this.#loop;
  }

  /** Rejects what runs or waits, and frees the cache. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const error = new DisposedError('A scheduler');
    for (const pending of [...this.#waiting, ...this.#running.map((row) => row.owner)]) this.#fail(pending, error);
    await this.idle();
    this.#operations.dispose();
  }

  #check(prompt: Int32Array, request: SequenceRequest): Pending {
    const { config, tokenizer } = this.#model;
    const { n, sampling, stopTokenIds } = checkOptions(request, this.#model);
    const limit = Math.min(request.maxNewTokens, config.maxPositionEmbeddings - prompt.length);
    checkPrompt('prompt', prompt, config, limit);
    const needed = prompt.length + limit - 1;
    if (needed > this.#ranges.capacity) {
      const expected = `at most ${this.#ranges.capacity} tokens, which the cache of keys and values holds,`;
      throw new InvalidArgumentError('prompt and maxNewTokens', expected, `${needed} tokens`);
    }
    checkIds('logitBias', [...(request.logitBias?.keys() ?? [])], config.vocabSize);
    const stops = { tokenIds: stopTokenIds, strings: new StopStrings(tokenizer, request.stop ?? []) };
    const first = (request.promptIndex ?? 0) * n;
    const owner: Pending = {
      prompt,
      sampling,
      stops,
      request,
      rows: [],
      bias: null,
      admitted: 0,
      settled: false,
      ...unanswered,
    };
    for (let sample = 0; sample < n; sample++) {
      const sequence = first + sample;
      owner.rows.push({ owner, sample, sequence, prompt, limit, ids: [], logProbs: [], end: null, place: null });
    }
    return owner;
  }

  async #run(): Promise<void> {
    // What was submitted in the same turn begins together.
    await Promise.resolve();
    try {
      for (;;) {
        this.#leave(this.#running.filter((row) => row.owner.settled));
        const before = this.#running;
        try {
          const admitted = this.#admit();
          if (before.length + admitted.length === 0) return;
          await this.#step(before, admitted);
        } catch (error) {
          // The device failed: nobody's tokens can be trusted. Those who still wait get their chance.
          for (const row of this.#running) this.#fail(row.owner, error);
        }
      }
    } finally {
      this.#repeat(null);
      this.#loop = null;
      if (this.#pauses === 0 && this.#waiting.length > 0) this.#loop = this.#run();
    }
  }

  /** Gives places to what waits, in order, and returns the rows that have one now. */
  #admit(): Row[] {
    const admitted: Row[] = [];
    while (this.#pauses === 0 && this.#waiting.length > 0) {
      const pending = this.#waiting[0]!;
      const rows = this.#place(pending, this.#maxBatch - this.#running.length);
      admitted.push(...rows);
      this.#running = [...this.#running, ...rows];
      if (pending.admitted < pending.rows.length) break;
      this.#waiting.shift();
    }
    return admitted;
  }

  /** Places as many of a request's rows as there is room for. */
  #place(pending: Pending, most: number): Row[] {
    const { prompt, rows } = pending;
    const begin = pending.admitted;
    const start = most > 0 ? this.#ranges.take(prompt.length) : null;
    if (start === null) return [];
    const shared = { start, length: prompt.length, users: 0 };
    while (pending.admitted < rows.length && shared.users < most) {
      const row = rows[pending.admitted]!;
      const own = this.#ranges.take(row.limit - 1);
      if (own === null) break;
      row.place = { prompt: shared, own: { start: own, length: row.limit - 1 } };
      shared.users++;
      pending.admitted++;
    }
    if (shared.users === 0) this.#ranges.release(shared.start, shared.length);
    return rows.slice(begin, pending.admitted);
  }

  /** Takes rows out of the batch and frees their places. */
  #leave(rows: readonly Row[]): void {
    if (rows.length === 0) return;
    this.#running = this.#running.filter((row) => !rows.includes(row));
    for (const row of rows) {
      const { prompt, own } = row.place!;
      this.#ranges.release(own.start, own.length);
      if (--prompt.users === 0) this.#ranges.release(prompt.start, prompt.length);
      row.place = null;
    }
    if (this.#running.length === 0) for (const resolve of this.#idleWaiters.splice(0)) resolve();
  }

  /** One token of every row: of those in the batch by feeding their last one, of new ones by their prompt. */
  async #step(before: readonly Row[], admitted: readonly Row[]): Promise<void> {
    const scope = new Scope();
    try {
      const parts: { rows: readonly Row[]; values: Promise<SampledValues> }[] = [];
      if (before.length > 0) {
        const rows = bySampling(before);
        parts.push({ rows, values: this.#advance(rows, scope) });
      }
      if (admitted.length > 0) {
        const last = this.#operations.prefill(promptsOf(admitted), scope);
        const sampled = this.#operations.sample(this.#sampled(admitted), last, scope);
        parts.push({ rows: admitted, values: reading(sampled) });
      }
      for (const { rows, values } of parts) {
        const { ids, logProbs, logits } = await values;
        rows.forEach((row, i) => {
          this.#take(row, ids[i]!, logProbs[i]!, logits[i] ?? null);
        });
      }
    } finally {
      scope.dispose();
    }
  }

  /** Feeds the last token of each row and draws the next: by a recorded step once the same rows come again. */
  #advance(rows: readonly Row[], scope: Scope): Promise<SampledValues> {
    const places = rows.map(placeOf);
    const sampled = this.#sampled(rows);
    const same = this.#repeated?.rows.length === rows.length && rows.every((row, i) => this.#repeated!.rows[i] === row);
    if (!same) this.#repeat({ rows, step: null });
    const last = () =>
      this.#model.device.tensor(
        Int32Array.from(rows, (row) => row.ids.at(-1)!),
        [rows.length],
        'i32',
      );
    if (!same || sampled.some(({ wantsLogits }) => wantsLogits)) {
      return this.#operations.feed(scope.track(last()), places, scope, (output) =>
        reading(this.#operations.sample(sampled, output, scope)),
      );
    }
    const maxLength = Math.max(...rows.map(({ place }) => place!.prompt.length + place!.own.length));
    const repeated = this.#repeated!;
    repeated.step ??= this.#operations.recordStep(last(), sampled, maxLength);
    repeated.step.run(places, sampled);
    const { ids, logProbs } = repeated.step;
    return reading({ ids, logProbs, logits: [] });
  }

  #repeat(repeated: Repeated | null): void {
    this.#repeated?.step?.dispose();
    this.#repeated = repeated;
  }

  #sampled(rows: readonly Row[]): SampledRow[] {
    return rows.map(({ owner, sequence, ids }) => ({
      sampling: owner.sampling,
      sequence,
      index: ids.length,
      bias: this.#biasOf(owner),
      wantsLogits: (owner.request.alternatives ?? 0) > 0,
    }));
  }

  #take(row: Row, id: number, logProb: number, logits: Float32Array | null): void {
    const { owner } = row;
    if (owner.settled) return;
    acceptToken(row, id, logProb, owner.stops);
    const { alternatives = 0, onToken } = owner.request;
    if (row.end) this.#leave([row]);
    const end = row.end && {
      reason: row.end.reason,
      text: row.end.text ?? this.#model.tokenizer.decode(row.ids),
    };
    try {
      onToken?.({
        sample: row.sample,
        id,
        logProb,
        alternatives: logits ? likeliestTokens(logits, alternatives, owner.sampling.temperature) : [],
        ids: row.ids,
        end,
      });
    } catch (error) {
      this.#fail(owner, error);
      return;
    }
    if (owner.rows.every(({ end }) => end)) {
      this.#settle(owner);
      owner.resolve(owner.rows.map((done) => completionOf(done, this.#model.tokenizer)));
    }
  }

  #fail(pending: Pending, error: unknown): void {
    if (pending.settled) return;
    this.#settle(pending);
    const at = this.#waiting.indexOf(pending);
    if (at >= 0) this.#waiting.splice(at, 1);
    pending.reject(error);
  }

  #settle(pending: Pending): void {
    pending.settled = true;
    pending.stopListening();
    pending.bias?.dispose();
    pending.bias = null;
  }

  #biasOf(pending: Pending): Tensor | null {
    const { logitBias } = pending.request;
    if (!logitBias || logitBias.size === 0 || pending.settled) return null;
    if (!pending.bias) {
      const values = new Float32Array(this.#model.config.vocabSize);
      for (const [id, bias] of logitBias) values[id] = bias;
      pending.bias = this.#model.device.tensor(values, [1, values.length]);
    }
    return pending.bias;
  }
}

/** A request before `submit` gives it its promise. */
const unanswered = { resolve: () => {}, reject: () => {}, stopListening: () => {} };

/** The place of a row's last token. */
function placeOf({ place, ids }: Row): CachePlace {
  const { prompt, own } = place!;
  return { promptStart: prompt.start, promptLength: prompt.length, ownStart: own.start, fed: ids.length - 1 };
}

function reading({ ids, logProbs, logits }: SampledTokens): Promise<SampledValues> {
  const read = async () => {
    const [drawn, values, ...handedOut] = await Promise.all([ids.read(), logProbs.read(), ...logits]);
    return { ids: drawn as Int32Array, logProbs: values as Float32Array, logits: handedOut };
  };
  return silent(read());
}

/** Rows that are sampled alike side by side, so that they are sampled at once. */
function bySampling(rows: readonly Row[]): Row[] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const { temperature, topK, topP, minP } = row.owner.sampling;
    const key = [temperature, topK, topP, minP].join();
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return [...groups.values()].flat();
}

/** The prompts of rows that were just admitted, each once. */
function promptsOf(rows: readonly Row[]): PrefillPrompt[] {
  const places = new Set(rows.map((row) => row.place!.prompt));
  return [...places].map((place) => {
    const own = rows.filter((row) => row.place!.prompt === place);
    return { prompt: own[0]!.prompt, start: place.start, rows: own.length };
  });
}
