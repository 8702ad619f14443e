/** Hands out ranges of a row of tokens, first fit, and joins what comes back with its free neighbours. */
export class TokenRanges {
  /** Free ranges in order, none touching the next. */
  readonly #free: { start: number; length: number }[];

  constructor(readonly capacity: number) {
    this.#free = [{ start: 0, length: capacity }];
  }

  get freeTokens(): number {
    return this.#free.reduce((sum, { length }) => sum + length, 0);
  }

  /** The start of a range that is now taken, or null when no free range is long enough. A length of 0 takes nothing. */
  take(length: number): number | null {
    if (length === 0) return 0;
    const at = this.#free.findIndex((range) => range.length >= length);
    if (at < 0) return null;
    const range = this.#free[at]!;
    const { start } = range;
    range.start += length;
    range.length -= length;
    if (range.length === 0) this.#free.splice(at, 1);
    return start;
  }

  release(start: number, length: number): void {
    if (length === 0) return;
    const after = this.#free.findIndex((range) => range.start > start);
    const at = after < 0 ? this.#free.length : after;
    this.#free.splice(at, 0, { start, length });
    for (const left of [at, at - 1]) {
      const [a, b] = [this.#free[left], this.#free[left + 1]];
      if (!a || !b || a.start + a.length !== b.start) continue;
      a.length += b.length;
      this.#free.splice(left + 1, 1);
    }
  }
}
