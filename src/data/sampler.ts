import { InvalidArgumentError } from '../errors.js';
import { permutation, randomSource } from './random.js';

export interface SamplerState {
  /** Passes over the data that are complete. */
  epoch: number;
  /** Rows of the current pass that were handed out. */
  position: number;
}

/**
 * Hands out the indices of a data set's rows, pass after pass, without end. The order of a pass is a function of seed and
 * epoch, so that a restored sampler goes on exactly where it stopped.
 */
export class Sampler {
  readonly length: number;
  readonly #seed: number;
  readonly #shuffle: boolean;
  #epoch = 0;
  #position = 0;
  #order: number[];

  constructor(length: number, options: { seed: number; shuffle: boolean }) {
    if (!Number.isSafeInteger(length) || length < 1) {
      throw new InvalidArgumentError('dataset', 'at least one row', `${length} rows`);
    }
    this.length = length;
    this.#seed = options.seed;
    this.#shuffle = options.shuffle;
    this.#order = this.#orderOf(0);
  }

  get state(): SamplerState {
    return { epoch: this.#epoch, position: this.#position };
  }

  /** Passes over the data so far, with fractions. */
  get epochs(): number {
    return this.#epoch + this.#position / this.length;
  }

  restore({ epoch, position }: SamplerState): void {
    if (!Number.isSafeInteger(epoch) || epoch < 0) throw new InvalidArgumentError('epoch', 'an integer >= 0', epoch);
    if (!Number.isSafeInteger(position) || position < 0 || position >= this.length) {
      throw new InvalidArgumentError(
        'position',
        `an integer in [0, ${this.length}), the rows of the data set`,
        position,
      );
    }
    this.#epoch = epoch;
    this.#position = position;
    this.#order = this.#orderOf(epoch);
  }

  take(count: number): number[] {
    return Array.from({ length: count }, () => this.#next());
  }

  /** What `take` will hand out next. */
  peek(count: number): number[] {
    const { state } = this;
    const rows = this.take(count);
    this.restore(state);
    return rows;
  }

  #next(): number {
    const index = this.#order[this.#position]!;
    if (++this.#position === this.length) {
      this.#epoch++;
      this.#position = 0;
      this.#order = this.#orderOf(this.#epoch);
    }
    return index;
  }

  #orderOf(epoch: number): number[] {
    if (!this.#shuffle) return Array.from({ length: this.length }, (_, i) => i);
    return permutation(this.length, randomSource(this.#seed, epoch));
  }
}
