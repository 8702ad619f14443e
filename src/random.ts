/**
 * Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): a function of key and counter, without a state, so
 * that a number does not depend on what was drawn before it.
 */
export function philox(counter: readonly number[], key: readonly number[], out: Uint32Array): void {
  let [c0, c1, c2, c3] = counter as [number, number, number, number];
  let [k0, k1] = key as [number, number];
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The upper 32 bits of the product of two unsigned 32-bit numbers. */
function multiplyHigh(a: number, b: number): number {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const cross = aHigh * bLow + ((aLow * bLow) >>> 16);
  return (aHigh * bHigh + Math.floor(cross / 65536) + ((cross & 0xffff) + aLow * bHigh) / 65536) | 0;
}

/** A seed as the two words of a Philox key. */
export function seedWords(seed: number): [number, number] {
  return [seed | 0, Math.floor(seed / 2 ** 32) | 0];
}

/** Standard normal numbers of a stream (Box-Muller on Philox). */
export function normals(count: number, seed: number, stream: number): Float32Array {
  const out = new Float32Array(count);
  const words = new Uint32Array(4);
  const key = seedWords(seed);
  for (let i = 0; i < count; i += 4) {
    philox([i / 4, Math.floor(i / 2 ** 34), stream, 0], key, words);
    for (let pair = 0; pair < 2; pair++) {
      const radius = Math.sqrt(-2 * Math.log((words[2 * pair]! + 0.5) / 2 ** 32));
      const angle = (2 * Math.PI * words[2 * pair + 1]!) / 2 ** 32;
      out[i + 2 * pair] = radius * Math.cos(angle);
      if (i + 2 * pair + 1 < count) out[i + 2 * pair + 1] = radius * Math.sin(angle);
    }
  }
  return out;
}
