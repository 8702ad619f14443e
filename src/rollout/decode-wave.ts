import type { Decoder } from '../models/decoder.js';
import { type Device, Scope, type Tensor } from '../tensor.js';
import { DecodeOperations, type RecordedStep, type SampledRow, type Sampling, silent } from './decode-operations.js';

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
  /** Place of the tokens in their completions. */
  index: number;
  ids: Tensor;
  values: Promise<[ids: Int32Array, logProbs: Float32Array]>;
}

/** A step as it is recorded, for all further tokens of its rows. */
interface SteadyStep {
  rows: readonly DecodeRow[];
  step: RecordedStep;
  /** Rows that had ended, over all steps so far: what was computed in vain. */
  wasted: number;
}

/**
 * Decodes rows together: all prompts first, then one token of every row at a time. Keys and values lie in one tensor
 * each a layer; a prompt's part is written once and read by all of its rows.
 *
 * The step is recorded for the rows there are, and replayed. One that has ended stays in it, in its last place, until such
 * rows have cost as much as one step of the others: recording costs about that, so that neither is more than half wrong.
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
  #steady: SteadyStep | null = null;

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
    const scope = new Scope();
    try {
      let current: Step | null = this.#prefill(scope);
      while (current) {
        const next = this.#advance(current);
        const [ids, logProbs] = await current.values;
        signal?.throwIfAborted();
        current.rows.forEach((row, i) => {
          if (!row.end) accept(row, ids[i]!, logProbs[i]!);
        });
        scope.dispose();
        current = next;
        if (this.#rows.every((row) => row.end)) break;
      }
    } finally {
      scope.dispose();
    }
  }

  dispose(): void {
    this.#steady?.step.dispose();
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
  #prefill(scope: Scope): Step {
    const prompts = this.#prompts.map(({ prompt, rows }) => {
      return { prompt, start: this.#places.get(rows[0]!)!.promptStart, rows: rows.length };
    });
    const output = this.#operations.prefill(prompts, scope);
    return reading(this.#rows, 0, this.#operations.sample(this.#sampled(this.#rows, 0), output, scope));
  }

  /** Feeds the tokens of a step, and samples the next one of each row; null when all are known to have ended. */
  #advance({ rows, index, ids }: Step): Step | null {
    const going = rows.flatMap((row, i) => (row.end || index + 1 >= row.limit ? [] : [i]));
    if (going.length === 0) return null;
    if (!this.#steady || this.#steady.wasted >= going.length) this.#record(rows, going, index + 1, ids);
    const steady = this.#steady!;
    steady.wasted += steady.rows.length - going.length;
    const places = steady.rows.map((row) => {
      // A row that has come to its limit has no place for another token: it writes to its last one again.
      const fed = Math.min(index, row.limit - 2);
      return { ...this.#places.get(row)!, promptLength: row.prompt.length, fed };
    });
    steady.step.run(places, this.#sampled(steady.rows, index + 1));
    return reading(steady.rows, index + 1, steady.step);
  }

  /** Records the step for the rows at `going`, whose tokens lie in `ids`. */
  #record(rows: readonly DecodeRow[], going: readonly number[], index: number, ids: Tensor): void {
    const staying = going.map((i) => rows[i]!);
    const maxLength = staying.reduce((most, { prompt, limit }) => Math.max(most, prompt.length + limit - 1), 0);
    const fed = this.#pick(ids, going);
    // Its memory goes to the one that follows.
    this.#steady?.step.dispose();
    this.#steady = null;
    const step = this.#operations.recordStep(fed, this.#sampled(staying, index), maxLength);
    this.#steady = { rows: staying, step, wasted: 0 };
  }

  /** ids[indices], for the caller to dispose of. */
  #pick(ids: Tensor, indices: readonly number[]): Tensor {
    const scope = new Scope();
    try {
      const picked = scope.track(this.#device.empty([indices.length], 'i32'));
      this.#device.run('gatherRows', {
        in: scope.track(ids.view([ids.size, 1])),
        indices: scope.track(this.#device.tensor(indices, [indices.length], 'i32')),
        out: scope.track(picked.view([indices.length, 1])),
      });
      return scope.keep(picked);
    } finally {
      scope.dispose();
    }
  }

  #sampled(rows: readonly DecodeRow[], index: number): SampledRow[] {
    return rows.map(({ sequence }) => ({ sampling: this.#sampling, sequence, index }));
  }
}

/** Reads the tokens of a step that was queued. */
function reading(rows: readonly DecodeRow[], index: number, sampled: { ids: Tensor; logProbs: Tensor }): Step {
  const { ids, logProbs } = sampled;
  return { rows, index, ids, values: silent(Promise.all([ids.read(), logProbs.read()])) as Step['values'] };
}
