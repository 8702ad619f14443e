import { InvalidArgumentError } from '../errors.js';
import type { Reward } from './reward.js';

export interface RepetitionPenaltyOptions {
  /** Tokens of an n-gram. Default 8. */
  size?: number;
  weight?: number;
}

/** 0 when no n-gram of tokens occurs twice, down to nearly -1 when all are the same. Shorter completions get 0. */
export function repetitionPenalty({ size = 8, weight }: RepetitionPenaltyOptions = {}): Reward {
  if (!Number.isSafeInteger(size) || size < 1) throw new InvalidArgumentError('size', 'a number of tokens >= 1', size);
  const score = (ids: Int32Array) => {
    const total = ids.length - size + 1;
    if (total < 1) return 0;
    const distinct = new Set(Array.from({ length: total }, (_, i) => ids.subarray(i, i + size).join()));
    return distinct.size / total - 1;
  };
  // Not -0.
  return { name: 'repetition', weight, score: (batch) => batch.map((sample) => score(sample.completionIds) || 0) };
}
