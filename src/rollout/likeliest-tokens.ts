export interface AlternativeToken {
  id: number;
  logProb: number;
}

/** The `count` largest of softmax(logits / temperature), largest first, as log-probs; temperature 1 when greedy. */
export function likeliestTokens(logits: Float32Array, count: number, temperature: number): AlternativeToken[] {
  const divisor = temperature > 0 ? temperature : 1;
  const largest = logits.reduce((max, x) => Math.max(max, x), Number.NEGATIVE_INFINITY);
  let sum = 0;
  for (const x of logits) sum += Math.exp((x - largest) / divisor);
  const logSum = Math.log(sum);
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (best.length === count && logits[id]! <= logits[best.at(-1)!]!) continue;
    let at = best.length;
    while (at > 0 && logits[best[at - 1]!]! < logits[id]!) at--;
    best.splice(at, 0, id);
    if (best.length > count) best.pop();
  }
  return best.map((id) => ({ id, logProb: (logits[id]! - largest) / divisor - logSum }));
}
