import { Tape, type Variable } from '../autograd.js';
import { bytesPerElement } from '../backend/backend.js';
import type { Decoder } from '../models/decoder.js';
import type { Recording } from '../recording.js';
import { type Device, Scope, type Tensor } from '../tensor.js';

/** How the tokens of a row are drawn. Neighbours that differ in the seed only are sampled together. */
export interface Sampling {
  /** 0 takes the most likely token. */
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  /** Two words. */
  seed: readonly [number, number];
}

/** What sampling needs to know of a row of logits. */
export interface SampledRow {
  readonly sampling: Sampling;
  /** With the seed and `index`, the counter of the row's random numbers. */
  readonly sequence: number;
  /** Tokens of the completion so far. */
  readonly index: number;
  /** [1,V] f32, added to the logits. */
  readonly bias?: Tensor | null;
  /** Also hand out the logits that the token is drawn from. */
  readonly wantsLogits?: boolean;
}

export interface SampledTokens {
  /** [R] i32 and f32; they belong to the scope that was given. */
  ids: Tensor;
  logProbs: Tensor;
  /** [V] of the rows that want them, the bias added, before the temperature. */
  logits: (Promise<Float32Array> | null)[];
}

/** Where the next token of a row stands in the cache. */
export interface CachePlace {
  promptStart: number;
  promptLength: number;
  ownStart: number;
  /** Own tokens that were fed before. */
  fed: number;
}

/** What a step needs to know of its rows, in one tensor. */
interface StepInputs {
  /** [R] i32. */
  positions: Tensor;
  /** [R] i32: where in the cache. */
  slots: Tensor;
  /** [R,4] i32, for `cachedAttention`. */
  segments: Tensor;
  /** Of all segments. */
  maxLength: number;
}

/** A prompt on its way into the cache, and how many rows continue it. */
export interface PrefillPrompt {
  prompt: Int32Array;
  /** Row of the cache that its first token gets. */
  start: number;
  rows: number;
}

/** Prompt tokens that go through the model at a time. A longer prompt goes by itself. */
const prefillTokens = 4096;

/** Bytes of the keys and values of one token. */
export function cacheBytesPerToken({ config, activations }: Decoder): number {
  return 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim * bytesPerElement[activations];
}

/**
 * The steps of decoding over a cache of keys and values, of `capacity` tokens: prompts in, one token of each row in, and
 * tokens drawn. Who stands where in the cache, and what happens when, is the caller's to say.
 */
export class DecodeOperations {
  readonly #device: Device;
  readonly #decoder: Decoder;
  readonly #workspaceBytes: number;
  readonly #scope = new Scope();
  /** By layer, [capacity, keyValueHeads * headDim]. */
  readonly #keys: Tensor[] = [];
  readonly #values: Tensor[] = [];

  /** `workspaceBytes`: most bytes of logits at a time. */
  constructor(device: Device, decoder: Decoder, capacity: number, workspaceBytes: number) {
    this.#device = device;
    this.#decoder = decoder;
    this.#workspaceBytes = workspaceBytes;
    const { numHiddenLayers, numKeyValueHeads, headDim } = decoder.config;
    try {
      for (let layer = 0; layer < numHiddenLayers; layer++) {
        for (const cache of [this.#keys, this.#values]) {
          cache.push(this.#scope.track(device.empty([capacity, numKeyValueHeads * headDim], decoder.activations)));
        }
      }
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  dispose(): void {
    this.#scope.dispose();
  }

  /**
   * Runs prompts through the model; neighbours in the list that also neighbour in the cache go together. Gives the
   * last layer's output [rows, H] of each prompt's last token, once a row; it belongs to the scope.
   */
  prefill(prompts: readonly PrefillPrompt[], scope: Scope): Tensor {
    const width = this.#decoder.config.hiddenSize;
    const total = prompts.reduce((sum, prompt) => sum + prompt.rows, 0);
    const last = scope.track(this.#device.empty([total, width], this.#decoder.activations));
    let rowsDone = 0;
    for (let done = 0; done < prompts.length; ) {
      let end = done + 1;
      let tokens = prompts[done]!.prompt.length;
      while (end < prompts.length && tokens + prompts[end]!.prompt.length <= prefillTokens) {
        if (prompts[end]!.start !== prompts[done]!.start + tokens) break;
        tokens += prompts[end++]!.prompt.length;
      }
      const chunk = prompts.slice(done, end);
      const rows = chunk.reduce((sum, prompt) => sum + prompt.rows, 0);
      this.#prefillChunk(chunk, last.view([rows, width], rowsDone * width));
      done = end;
      rowsDone += rows;
    }
    return last;
  }

  /** Fills the cache with some prompts, and `last` with the output of the last token of each, once a row. */
  #prefillChunk(prompts: readonly PrefillPrompt[], last: Tensor): void {
    const ids: number[] = [];
    const positions: number[] = [];
    const offsets = [0];
    const lastRows: number[] = [];
    for (const { prompt, rows } of prompts) {
      prompt.forEach((id, position) => {
        ids.push(id);
        positions.push(position);
      });
      offsets.push(ids.length);
      for (let row = 0; row < rows; row++) lastRows.push(ids.length - 1);
    }
    const begin = prompts[0]!.start;
    const maxLength = Math.max(...prompts.map(({ prompt }) => prompt.length));
    const scope = new Scope();
    const tape = this.#tape();
    const indices = (values: number[]) => scope.track(this.#device.tensor(values, [values.length], 'i32'));
    try {
      const layout = { sequenceOffsets: indices(offsets), maxLength, ...this.#headLayout() };
      const store = (cache: Tensor, x: Variable) => {
        const [rows, width] = x.value.shape as [number, number];
        this.#device.run('copy', { in: x.value, out: scope.track(cache.view([rows, width], begin * width)) });
      };
      const out = this.#decoder.forward(
        tape,
        indices(ids),
        indices(positions),
        (inner, layer, queries, keys, values) => {
          store(this.#keys[layer]!, keys);
          store(this.#values[layer]!, values);
          return inner.attention(queries, keys, values, layout);
        },
      );
      this.#device.run('gatherRows', { in: out.value, indices: indices(lastRows), out: scope.track(last) });
    } finally {
      tape.dispose();
      scope.dispose();
    }
  }

  /** Runs one token of each row, `ids` [R], through the model, and hands the last layer's output [R,H] to `use`. */
  feed<T>(ids: Tensor, places: readonly CachePlace[], scope: Scope, use: (output: Tensor) => T): T {
    const data = placeNumbers(places);
    const maxLength = places.reduce((most, { promptLength, fed }) => Math.max(most, promptLength + fed + 1), 0);
    const all = scope.track(this.#device.tensor(data, [data.length], 'i32'));
    return this.#feed(ids, stepInputs(all, places.length, maxLength, scope), use);
  }

  /**
   * Records the step that feeds `ids` [R] and draws the next token of each row into it; the step owns the tensor.
   * `maxLength`: most tokens that a row will see, its prompt and those fed counted. No row may want its logits.
   */
  recordStep(ids: Tensor, rows: readonly SampledRow[], maxLength: number): RecordedStep {
    const size = rows.length;
    const scope = new Scope();
    scope.track(ids);
    try {
      const numbers = scope.track(this.#device.empty([10 * size], 'i32'));
      const keys = scope.track(numbers.view([size, 4], 6 * size));
      const inputs = stepInputs(numbers, size, maxLength, scope);
      let logProbs!: Tensor;
      const recording = this.#device.record(() => {
        this.#feed(ids, inputs, (output) => {
          logProbs = this.#draw(rows, keys, output, ids, scope).logProbs;
        });
      });
      return new RecordedStep(scope.track(recording), scope, numbers, ids, logProbs);
    } catch (error) {
      scope.dispose();
      throw error;
    }
  }

  #feed<T>(ids: Tensor, { positions, slots, segments, maxLength }: StepInputs, use: (output: Tensor) => T): T {
    const tape = this.#tape();
    try {
      const out = this.#decoder.forward(tape, ids, positions, (inner, layer, queries, keys, values) => {
        const [keyCache, valueCache] = [this.#keys[layer]!, this.#values[layer]!];
        this.#device.run('scatterRows', { in: keys.value, indices: slots, out: keyCache });
        this.#device.run('scatterRows', { in: values.value, indices: slots, out: valueCache });
        const attended = inner.empty(queries.value.shape);
        this.#device.run('cachedAttention', {
          queries: queries.value,
          keyCache,
          valueCache,
          segments,
          out: attended,
          maxLength,
          ...this.#headLayout(),
        });
        return inner.constant(attended);
      });
      return use(out.value);
    } finally {
      tape.dispose();
    }
  }

  /** Draws the next token of each row from the last layer's output [R,H]. */
  sample(rows: readonly SampledRow[], output: Tensor, scope: Scope): SampledTokens {
    const keys = scope.track(this.#device.tensor(keyNumbers(rows), [rows.length, 4], 'i32'));
    const ids = scope.track(this.#device.empty([rows.length], 'i32'));
    return this.#draw(rows, keys, output, ids, scope);
  }

  #draw(rows: readonly SampledRow[], keys: Tensor, output: Tensor, ids: Tensor, scope: Scope): SampledTokens {
    const { head, config } = this.#decoder;
    const size = rows.length;
    const logProbs = scope.track(this.#device.empty([size]));
    const handedOut: (Promise<Float32Array> | null)[] = rows.map(() => null);
    const tape = this.#tape();
    const part = (whole: Tensor, width: number, begin: number, shape: number[]) =>
      scope.track(whole.view(shape, begin * width));
    try {
      const hidden = this.#decoder.finalNorm(tape, tape.constant(output)).value;
      const rowBytes = bytesPerElement.f32 * config.vocabSize;
      const chunk = Math.max(1, Math.min(size, Math.floor(this.#workspaceBytes / rowBytes)));
      const logits = tape.empty([chunk, config.vocabSize], 'f32');
      for (let begin = 0; begin < size; begin += chunk) {
        const count = Math.min(chunk, size - begin);
        this.#device.run('matmul', {
          a: part(hidden, config.hiddenSize, begin, [count, config.hiddenSize]),
          b: head.value,
          out: part(logits, config.vocabSize, 0, [count, config.vocabSize]),
          transposeA: 0,
          transposeB: 1,
          accumulate: 0,
        });
        for (let i = 0; i < count; i++) {
          const { bias, wantsLogits } = rows[begin + i]!;
          if (!bias && !wantsLogits) continue;
          const row = part(logits, config.vocabSize, i, [1, config.vocabSize]);
          if (bias) this.#device.run('add', { a: row, b: bias, out: row, alpha: 1, beta: 1 });
          if (wantsLogits) handedOut[begin + i] = silent(row.read() as Promise<Float32Array>);
        }
        for (const [first, end] of runsOf(rows, begin, begin + count)) {
          const { temperature, topK, topP, minP } = rows[first]!.sampling;
          this.#device.run('sample', {
            logits: part(logits, config.vocabSize, first - begin, [end - first, config.vocabSize]),
            keys: part(keys, 4, first, [end - first, 4]),
            ids: part(ids, 1, first, [end - first]),
            logProbs: part(logProbs, 1, first, [end - first]),
            temperature,
            topK,
            topP,
            minP,
          });
        }
      }
    } finally {
      tape.dispose();
    }
    return { ids, logProbs, logits: handedOut };
  }

  #tape(): Tape {
    return new Tape(this.#device, { record: false, dtype: this.#decoder.activations });
  }

  #headLayout(): { headDim: number; scale: number } {
    const { headDim } = this.#decoder.config;
    return { headDim, scale: 1 / Math.sqrt(headDim) };
  }
}

/** A step of decoding that is the same each time but for where its rows stand. */
export class RecordedStep {
  /** [R] i32: the tokens to feed, then those drawn. */
  readonly ids: Tensor;
  /** [R]. */
  readonly logProbs: Tensor;
  readonly #recording: Recording;
  readonly #scope: Scope;
  readonly #numbers: Tensor;

  /** @internal Use `DecodeOperations.recordStep`. */
  constructor(recording: Recording, scope: Scope, numbers: Tensor, ids: Tensor, logProbs: Tensor) {
    this.ids = ids;
    this.logProbs = logProbs;
    this.#recording = recording;
    this.#scope = scope;
    this.#numbers = numbers;
  }

  /** Queues the step; `places` and `rows` in the order of `ids`. */
  run(places: readonly CachePlace[], rows: readonly SampledRow[]): void {
    const numbers = new Int32Array(this.#numbers.size);
    numbers.set(placeNumbers(places));
    numbers.set(keyNumbers(rows), 6 * rows.length);
    this.#numbers.write(numbers);
    this.#recording.replay();
  }

  dispose(): void {
    this.#scope.dispose();
  }
}

/** Positions, slots in the cache and segments of the rows. */
function placeNumbers(places: readonly CachePlace[]): Int32Array {
  const size = places.length;
  const data = new Int32Array(6 * size);
  places.forEach(({ promptStart, promptLength, ownStart, fed }, i) => {
    data[i] = promptLength + fed;
    data[size + i] = ownStart + fed;
    data.set([promptStart, promptLength, ownStart, fed + 1], 2 * size + 4 * i);
  });
  return data;
}

/** The tensors of what `placeNumbers` gives, `all`. */
function stepInputs(all: Tensor, size: number, maxLength: number, scope: Scope): StepInputs {
  return {
    positions: scope.track(all.view([size])),
    slots: scope.track(all.view([size], size)),
    segments: scope.track(all.view([size, 4], 2 * size)),
    maxLength,
  };
}

/** The counters of the rows' random numbers, for `sample`. */
function keyNumbers(rows: readonly SampledRow[]): Int32Array {
  return Int32Array.from(rows.flatMap(({ sampling, sequence, index }) => [...sampling.seed, sequence, index]));
}

/** A step may be given up before anybody awaits its values; their error then concerns nobody. */
export function silent<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** Runs of rows between `begin` and `end` that are sampled alike. */
function* runsOf(rows: readonly SampledRow[], begin: number, end: number): Generator<[begin: number, end: number]> {
  for (let first = begin, next = begin + 1; first < end; first = next, next++) {
    while (next < end && alike(rows[next]!.sampling, rows[first]!.sampling)) next++;
    yield [first, next];
  }
}

function alike(a: Sampling, b: Sampling): boolean {
  return a.temperature === b.temperature && a.topK === b.topK && a.topP === b.topP && a.minP === b.minP;
}
