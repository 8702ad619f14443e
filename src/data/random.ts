/** A generator of 32-bit numbers that is a function of its seeds only (splitmix32 over a mixed start). */
export function randomSource(...seeds: number[]): () => number {
  let state = seeds.reduce((mixed, seed) => mix((mixed ^ seed) + 0x9e3779b9), 0x243f6a88);
  return () => {
    state = (state + 0x9e3779b9) | 0;
    return mix(state);
  };
}

/** A seed of its own for each combination of numbers: 32 bits, so that it stays exact in JSON and in an i32 tensor. */
export function deriveSeed(...seeds: number[]): number {
  return randomSource(...seeds)();
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

function mix(value: number): number {
  let z = value;
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return (z ^ (z >>> 16)) >>> 0;
}
