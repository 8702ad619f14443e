/** Ten rounds of Philox4x32: four random words for a key and a counter. Salmon et al., SC 2011. */
export function philox(key: readonly [number, number], counter: readonly number[]): number[] {
  let [k0, k1] = key.map((word) => BigInt(word >>> 0)) as [bigint, bigint];
  let words = counter.map((word) => BigInt(word >>> 0));
  const low = (x: bigint) => x & 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const [c0, c1, c2, c3] = words as [bigint, bigint, bigint, bigint];
    const [product0, product1] = [0xd2511f53n * c0, 0xcd9e8d57n * c2];
    words = [(product1 >> 32n) ^ c1 ^ k0, low(product1), (product0 >> 32n) ^ c3 ^ k1, low(product0)];
    k0 = low(k0 + 0x9e3779b9n);
    k1 = low(k1 + 0xbb67ae85n);
  }
  return words.map(Number);
}

/** The number from [0,1) that draws a token: 53 bits of the first two words. */
export function sampleUniform([seedLow, seedHigh, sequence, position]: readonly number[]): number {
  const [high, low] = philox([seedLow!, seedHigh!], [sequence!, position!, 0, 0]);
  return (high! * 2 ** 21 + (low! >>> 11)) / 2 ** 53;
}

export interface SampleOptions {
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
}

/** The probabilities that a token is drawn with: softmax(logits / temperature) after topK, topP and minP. */
export function sampleDistribution(logits: readonly number[], options: SampleOptions): number[] {
  const max = Math.max(...logits);
  if (options.temperature === 0) {
    const greedy = logits.indexOf(max);
    return logits.map((_, id) => (id === greedy ? 1 : 0));
  }
  const weights = logits.map((logit) => Math.exp((logit - max) / options.temperature));
  const sorted = [...logits].sort((a, b) => b - a);
  /** Removes what lies below `lowest`; ties with it stay. */
  const keepFrom = (lowest: number) => {
    for (let id = 0; id < logits.length; id++) if (logits[id]! < lowest) weights[id] = 0;
  };
  if (options.topK > 0 && options.topK < logits.length) keepFrom(sorted[options.topK - 1]!);
  if (options.topP < 1) {
    const kept = logits.map((_, id) => id).filter((id) => weights[id]! > 0);
    kept.sort((a, b) => logits[b]! - logits[a]!);
    const total = kept.reduce((sum, id) => sum + weights[id]!, 0);
    let reached = 0;
    const last = kept.find((id) => {
      reached += weights[id]!;
      return reached >= options.topP * total;
    });
    keepFrom(logits[last ?? kept.at(-1)!]!);
  }
  const kept = weights.map((weight) => (weight >= options.minP ? weight : 0));
  const total = kept.reduce((sum, weight) => sum + weight, 0);
  return kept.map((weight) => weight / total);
}

/** The token at the share of the distribution that `key` draws. */
export function sample(logits: readonly number[], key: readonly number[], options: SampleOptions): number {
  const probabilities = sampleDistribution(logits, options);
  const target = sampleUniform(key);
  let reached = 0;
  const id = probabilities.findIndex((p) => {
    reached += p;
    return reached > target;
  });
  return id >= 0 ? id : probabilities.findLastIndex((p) => p > 0);
}
