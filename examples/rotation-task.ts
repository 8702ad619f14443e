/**
 * A task for policies that are written in another framework: prompt p is answered by the tokens p, p + 1, p + 2, ...
 * (modulo the vocabulary). The policy sees the prompt and the position, both one-hot.
 */
export const task = { prompts: 4, groupSize: 16, length: 4, vocab: 16 };
export const features = task.prompts + task.length;
export const sequences = task.prompts * task.groupSize;
export const tokens = sequences * task.length;

/** [tokens, features]: one row a token, sequence after sequence, group after group. */
export function inputs(): Float32Array {
  const rows = new Float32Array(tokens * features);
  for (let row = 0; row < tokens; row++) {
    rows[row * features + promptOf(row)] = 1;
    rows[row * features + task.prompts + (row % task.length)] = 1;
  }
  return rows;
}

/** [sequences + 1]: where each sequence begins. */
export const sequenceOffsets = Int32Array.from({ length: sequences + 1 }, (_, sequence) => sequence * task.length);

/** One token a row, from the softmax of its logits [tokens, vocab]. `random` gives numbers from 0 to 1. */
export function sampleTokens(logits: ArrayLike<number>, random: () => number): Int32Array {
  return Int32Array.from({ length: tokens }, (_, row) => {
    const scores = Array.from({ length: task.vocab }, (_, token) => logits[row * task.vocab + token]!);
    const most = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - most));
    let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
    const chosen = weights.findIndex((weight) => {
      left -= weight;
      return left < 0;
    });
    return chosen < 0 ? task.vocab - 1 : chosen;
  });
}

/** [sequences]: the share of the tokens that are right. */
export function rewardsOf(completions: Int32Array): Float32Array {
  const rewards = new Float32Array(sequences);
  completions.forEach((token, row) => {
    const right = (promptOf(row) + (row % task.length)) % task.vocab;
    if (token === right) rewards[Math.floor(row / task.length)]! += 1 / task.length;
  });
  return rewards;
}

/** The same numbers from 0 to 1 in every run. */
export function createRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export function mean(values: ArrayLike<number>): number {
  return Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
}

function promptOf(row: number): number {
  return Math.floor(row / (task.length * task.groupSize));
}
