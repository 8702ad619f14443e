import { InvalidArgumentError } from '../../errors.js';

export interface Overlap {
  /** Position of the training text that shares a run of words with the benchmark. */
  text: number;
  /** Position of the benchmark's text. */
  benchmark: number;
  /** The first run of words that both have. */
  words: string;
}

/**
 * Training texts that share `size` words in a row with a text of a benchmark; one entry for each. Case and punctuation do
 * not count. Chinese, Japanese and Korean characters are words of their own.
 */
export function findOverlaps(texts: readonly string[], benchmark: readonly string[], size = 13): Overlap[] {
  if (!Number.isSafeInteger(size) || size < 1) throw new InvalidArgumentError('size', 'a number of words >= 1', size);
  const known = new Map<string, number>();
  benchmark.forEach((text, position) => {
    for (const run of runs(text, size)) if (!known.has(run)) known.set(run, position);
  });
  return texts.flatMap((text, position) => {
    for (const run of runs(text, size)) {
      const found = known.get(run);
      if (found !== undefined) return [{ text: position, benchmark: found, words: run }];
    }
    return [];
  });
}

const character = '[\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\p{sc=Hangul}]';
const word = new RegExp(`${character}|(?:(?!${character})[\\p{L}\\p{N}\\p{M}])+`, 'gu');

function* runs(text: string, size: number): Generator<string> {
  const words = text.toLowerCase().match(word) ?? [];
  for (let i = 0; i + size <= words.length; i++) yield words.slice(i, i + size).join(' ');
}
