import { philox, seedWords } from '../random.js';

/** What numbers are drawn for, so that no two uses share a stream. */
const purposes = { order: 1, seeds: 2 } as const;

/** Uniform 32-bit numbers that are a function of seed and stream only. */
export function randomSource(seed: number, stream: number): () => number {
  const words = new Uint32Array(4);
  const key = seedWords(seed);
  let drawn = 0;
  return () => {
    if (drawn % 4 === 0) philox([drawn / 4, stream, purposes.order, 0], key, words);
    return words[drawn++ % 4]!;
  };
}

/** The `index`-th of a row of seeds: 32 bits, so that it stays exact in JSON and as two words of a key. */
export function deriveSeed(seed: number, index: number): number {
  const words = new Uint32Array(4);
  philox([index, 0, purposes.seeds, 0], seedWords(seed), words);
  return words[0]!;
}

/** A uniformly random order of 0 .. length - 1 (Fisher-Yates). */
export function permutation(length: number, next: () => number): number[] {
  const order = Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = below(i + 1, next);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** A uniform integer in [0, bound): draws that would favour small numbers are thrown away. */
function below(bound: number, next: () => number): number {
  const limit = 2 ** 32 - (2 ** 32 % bound);
  for (;;) {
    const value = next();
    if (value < limit) return value % bound;
  }
}
