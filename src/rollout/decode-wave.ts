import type { Decoder } from '../models/decoder.js';
import { type Device, Scope, type Tensor } from '../tensor.js';
import { DecodeOperations, type Sampling, silent } from './decode-operations.js';

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

/** Takes a sampled token into its row, and sets `row.end` if it is the last. */
export type Accept = (row: DecodeRow, id: number, logProb: number) => void;

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
  readonly #rows: readonly DecodeRow[];
  readonly #sampling: Sampling;
  readonly #operations: DecodeOperations;
  /** Where in the cache a row's prompt and its own tokens begin. */
  readonly #places = new Map<DecodeRow, { promptStart: number; ownStart: number }>();
  /** Each prompt once, with the rows that continue it. */
  readonly #prompts: { prompt: Int32Array; rows: DecodeRow[] }[] = [];

  /** `workspaceBytes`: most bytes of logits at a time. */
  constructor(
    device: Device,
    decoder: Decoder,
    rows: readonly DecodeRow[],
    { workspaceBytes, ...sampling }: Sampling & { workspaceBytes: number },
  ) {
    this.#device = device;
    this.#rows = rows;
    this.#sampling = sampling;
    this.#operations = new DecodeOperations(device, decoder, this.#place(), workspaceBytes);
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
    this.#operations.dispose();
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
        this.#places.set(row, { promptStart: promptEnd, ownStart: ownEnd });
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
      const prompts = this.#prompts.map(({ prompt, rows }) => {
        return { prompt, start: this.#places.get(rows[0]!)!.promptStart, rows: rows.length };
      });
      return this.#sample(this.#rows, 0, this.#operations.prefill(prompts, scope), scope);
    } catch (error) {
      scope.dispose();
      throw error;
    }
  }

  /** Feeds the tokens of a step, and samples the next one of each row that is not known to have ended. */
  #advance(step: Step): Step | null {
    const going = step.rows.flatMap((row, i) => (row.end || row.ids.length + 1 >= row.limit ? [] : [i]));
    if (going.length === 0) return null;
    const rows = going.map((i) => step.rows[i]!);
    const fed = rows[0]!.ids.length;
    const scope = new Scope();
    try {
      const ids = rows.length === step.rows.length ? step.ids : this.#pick(step.ids, going, scope);
      const places = rows.map((row) => ({ ...this.#places.get(row)!, promptLength: row.prompt.length, fed }));
      return this.#operations.feed(ids, places, scope, (output) => this.#sample(rows, fed + 1, output, scope));
    } catch (error) {
      scope.dispose();
      throw error;
    }
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
    const sampled = rows.map(({ sequence }) => ({ sampling: this.#sampling, sequence, index }));
    const { ids, logProbs } = this.#operations.sample(sampled, output, scope);
    const values = silent(Promise.all([ids.read(), logProbs.read()])) as Step['values'];
    return { rows, scope, ids, values };
  }
}
