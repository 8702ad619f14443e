import { Tape, type Variable } from '../autograd.js';
import { bytesPerElement } from '../backend/backend.js';
import type { Decoder } from '../models/decoder.js';
import { type Device, Scope, type Tensor } from '../tensor.js';

/** One completion in the making. */
export interface DecodeRow {
  /** Rows of one prompt stand next to each other and hold the same array: they share its prefill. */
  readonly prompt: Int32Array;
  /** Index of the sample among all: part of its random numbers' counter. */
  readonly sequence: number;
  /** Most tokens of the completion. */
  readonly limit: number;
  readonly ids: number[];
  readonly logProbs: number[];
  /** Why it ended, and the text where a stop string cut it. */
  end: { reason: 'stop' | 'length'; text: string | null } | null;
}

export interface SamplingOptions {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  /** Two words. */
  seed: readonly [number, number];
  /** Most bytes of logits at a time. */
  workspaceBytes: number;
}

/** Takes a sampled token into its row, and sets `row.end` if it is the last. */
export type Accept = (row: DecodeRow, id: number, logProb: number) => void;

/** Prompt tokens that go through the model at a time. A longer prompt goes by itself. */
const prefillTokens = 4096;

/** A prompt and the rows that continue it. */
interface SharedPrompt {
  prompt: Int32Array;
  rows: DecodeRow[];
}

/** Tokens that were sampled, or are being sampled, for some rows. */
interface Step {
  rows: readonly DecodeRow[];
  scope: Scope;
  ids: Tensor;
  values: Promise<[ids: Int32Array, logProbs: Float32Array]>;
}

/**
 * Decodes rows together: all prompts first, then one token of every row at a time. Keys and values lie in one tensor
 * each a layer; a prompt's part is written once and read by all of its rows.
 */
export class DecodeWave {
  readonly #device: Device;
  readonly #decoder: Decoder;
  readonly #rows: readonly DecodeRow[];
  readonly #options: SamplingOptions;
  readonly #scope = new Scope();
  /** By layer, [capacity, keyValueHeads * headDim]. */
  readonly #keys: Tensor[];
  readonly #values: Tensor[];
  /** Where in the cache a row's prompt and its own tokens begin. */
  readonly #places = new Map<DecodeRow, { prompt: number; own: number }>();
  readonly #prompts: SharedPrompt[] = [];

  constructor(device: Device, decoder: Decoder, rows: readonly DecodeRow[], options: SamplingOptions) {
    this.#device = device;
    this.#decoder = decoder;
    this.#rows = rows;
    this.#options = options;
    const capacity = this.#place();
    const { numHiddenLayers, numKeyValueHeads, headDim } = decoder.config;
    const cache = () =>
      Array.from({ length: numHiddenLayers }, () =>
        this.#scope.track(device.empty([capacity, numKeyValueHeads * headDim])),
      );
    try {
      this.#keys = cache();
      this.#values = cache();
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /**
   * Runs until every row has ended. A step is queued before the tokens of the step before it are read, so that the
   * device does not wait for the host; a row that ends is therefore computed once more in vain.
   */
  async run(accept: Accept, signal?: AbortSignal): Promise<void> {
    let current: Step | null = this.#prefill();
    let next: Step | null = null;
    try {
      while (current) {
        next = this.#advance(current);
        const [ids, logProbs] = await current.values;
        signal?.throwIfAborted();
        current.rows.forEach((row, i) => {
          if (!row.end) accept(row, ids[i]!, logProbs[i]!);
        });
        current.scope.dispose();
        current = next;
        next = null;
        if (this.#rows.every((row) => row.end)) break;
      }
    } finally {
      current?.scope.dispose();
      next?.scope.dispose();
    }
  }

  dispose(): void {
    this.#scope.dispose();
  }

  /** Lays out the cache: all prompts, then the rows' own tokens (the last token of a row is never fed). */
  #place(): number {
    for (const row of this.#rows) {
      const last = this.#prompts.at(-1);
      if (last?.prompt === row.prompt) last.rows.push(row);
      else this.#prompts.push({ prompt: row.prompt, rows: [row] });
    }
    let promptEnd = 0;
    let ownEnd = this.#prompts.reduce((sum, { prompt }) => sum + prompt.length, 0);
    for (const { prompt, rows } of this.#prompts) {
      for (const row of rows) {
        this.#places.set(row, { prompt: promptEnd, own: ownEnd });
        ownEnd += row.limit - 1;
      }
      promptEnd += prompt.length;
    }
    return ownEnd;
  }

  /** Runs the prompts through the model and samples the first token of every row. */
  #prefill(): Step {
    const scope = new Scope();
    try {
      const { hiddenSize } = this.#decoder.config;
      const last = scope.track(this.#device.empty([this.#rows.length, hiddenSize]));
      let done = 0;
      for (const prompts of chunks(this.#prompts)) {
        const count = prompts.reduce((sum, { rows }) => sum + rows.length, 0);
        this.#prefillChunk(prompts, scope.track(last.view([count, hiddenSize], done * hiddenSize)));
        done += count;
      }
      return this.#sample(this.#rows, 0, last, scope);
    } catch (error) {
      scope.dispose();
      throw error;
    }
  }

  /** Fills the cache with some prompts, and `last` with the output of the last token of each, once a row. */
  #prefillChunk(prompts: readonly SharedPrompt[], last: Tensor): void {
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
      for (const _ of rows) lastRows.push(ids.length - 1);
    }
    const begin = this.#places.get(prompts[0]!.rows[0]!)!.prompt;
    const maxLength = Math.max(...prompts.map(({ prompt }) => prompt.length));
    const scope = new Scope();
    const tape = new Tape(this.#device, { record: false });
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
      this.#device.run('gatherRows', { in: out.value, indices: indices(lastRows), out: last });
    } finally {
      tape.dispose();
      scope.dispose();
    }
  }

  /** Feeds the tokens of a step, and samples the next one of each row that is not known to have ended. */
  #advance(step: Step): Step | null {
    const going = step.rows.flatMap((row, i) => (row.end || row.ids.length + 1 >= row.limit ? [] : [i]));
    if (going.length === 0) return null;
    const rows = going.map((i) => step.rows[i]!);
    const fed = rows[0]!.ids.length;
    const size = rows.length;
    const scope = new Scope();
    const tape = new Tape(this.#device, { record: false });
    try {
      const { positions, slots, segments, maxLength } = this.#inputs(rows, fed, scope);
      const ids = size === step.rows.length ? step.ids : this.#pick(step.ids, going, scope);
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
      return this.#sample(rows, fed + 1, out.value, scope);
    } catch (error) {
      scope.dispose();
      throw error;
    } finally {
      tape.dispose();
    }
  }

  /** What a step needs to know of its rows, uploaded at once: position, slot in the cache and segments of each. */
  #inputs(rows: readonly DecodeRow[], fed: number, scope: Scope) {
    const size = rows.length;
    const data = new Int32Array(6 * size);
    let maxLength = 0;
    rows.forEach((row, i) => {
      const place = this.#places.get(row)!;
      data[i] = row.prompt.length + fed;
      data[size + i] = place.own + fed;
      data.set([place.prompt, row.prompt.length, place.own, fed + 1], 2 * size + 4 * i);
      maxLength = Math.max(maxLength, row.prompt.length + fed + 1);
    });
    const all = scope.track(this.#device.tensor(data, [data.length], 'i32'));
    return {
      positions: scope.track(all.view([size])),
      slots: scope.track(all.view([size], size)),
      segments: scope.track(all.view([size, 4], 2 * size)),
      maxLength,
    };
  }

  #pick(ids: Tensor, indices: readonly number[], scope: Scope): Tensor {
    const picked = scope.track(this.#device.empty([indices.length], 'i32'));
    const from = scope.track(this.#device.tensor(indices, [indices.length], 'i32'));
    this.#device.run('gatherRows', {
      in: scope.track(ids.view([ids.size, 1])),
      indices: from,
      out: scope.track(picked.view([indices.length, 1])),
    });
    return picked;
  }

  /** Samples token number `index` of the rows from the last layer's output. */
  #sample(rows: readonly DecodeRow[], index: number, output: Tensor, scope: Scope): Step {
    const { temperature, topK, topP, minP, seed, workspaceBytes } = this.#options;
    const { head, config } = this.#decoder;
    const size = rows.length;
    const counters = Int32Array.from(rows.flatMap((row) => [...seed, row.sequence, index]));
    const keys = scope.track(this.#device.tensor(counters, [size, 4], 'i32'));
    const ids = scope.track(this.#device.empty([size], 'i32'));
    const logProbs = scope.track(this.#device.empty([size]));
    const tape = new Tape(this.#device, { record: false });
    try {
      const hidden = this.#decoder.finalNorm(tape, tape.constant(output)).value;
      const chunk = Math.max(1, Math.min(size, Math.floor(workspaceBytes / (bytesPerElement.f32 * config.vocabSize))));
      const logits = tape.empty([chunk, config.vocabSize]);
      for (let begin = 0; begin < size; begin += chunk) {
        const count = Math.min(chunk, size - begin);
        const part = (whole: Tensor, width: number, shape: number[]) => scope.track(whole.view(shape, begin * width));
        const some = scope.track(logits.view([count, config.vocabSize]));
        this.#device.run('matmul', {
          a: part(hidden, config.hiddenSize, [count, config.hiddenSize]),
          b: head.value,
          out: some,
          transposeA: 0,
          transposeB: 1,
          accumulate: 0,
        });
        this.#device.run('sample', {
          logits: some,
          keys: part(keys, 4, [count, 4]),
          ids: part(ids, 1, [count]),
          logProbs: part(logProbs, 1, [count]),
          temperature,
          topK,
          topP,
          minP,
        });
      }
    } finally {
      tape.dispose();
    }
    const values = Promise.all([ids.read(), logProbs.read()]) as Promise<[Int32Array, Float32Array]>;
    // A step may be given up before anybody awaits it; its error then concerns nobody.
    values.catch(() => {});
    return { rows, scope, ids, values };
  }

  #headLayout(): { headDim: number; scale: number } {
    const { headDim } = this.#decoder.config;
    return { headDim, scale: 1 / Math.sqrt(headDim) };
  }
}

/** Runs of prompts that go through the model together. */
function chunks(prompts: readonly SharedPrompt[]): SharedPrompt[][] {
  const found: SharedPrompt[][] = [];
  let tokens = Number.POSITIVE_INFINITY;
  for (const shared of prompts) {
    if (tokens + shared.prompt.length > prefillTokens) {
      found.push([]);
      tokens = 0;
    }
    found.at(-1)!.push(shared);
    tokens += shared.prompt.length;
  }
  return found;
}
