import { InvalidArgumentError } from '../errors.js';
import type { Tokenizer } from '../text/tokenizer.js';

/** Looks for strings that end a completion, in text whose tokens arrive one by one. */
export class StopStrings {
  readonly #tokenizer: Tokenizer;
  readonly #strings: readonly string[];
  /** A string of n bytes lies within the last n tokens; a few more make the text before it decode properly. */
  readonly #tail: number;

  constructor(tokenizer: Tokenizer, strings: readonly string[]) {
    strings.forEach((text, i) => {
      if (typeof text !== 'string' || text === '')
        throw new InvalidArgumentError(`stop[${i}]`, 'a non-empty string', text);
    });
    this.#tokenizer = tokenizer;
    this.#strings = strings;
    this.#tail = 4 + Math.max(0, ...strings.map((text) => new TextEncoder().encode(text).length));
  }

  /** The text before the first stop string, or null when the last token completed none. */
  cut(ids: readonly number[]): string | null {
    if (this.#strings.length === 0) return null;
    const end = this.#tokenizer.decode(ids.slice(-this.#tail));
    if (this.#first(end) < 0) return null;
    const text = this.#tokenizer.decode(ids);
    const at = this.#first(text);
    return at < 0 ? null : text.slice(0, at);
  }

  #first(text: string): number {
    const found = this.#strings.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    return found.length === 0 ? -1 : Math.min(...found);
  }
}
