import { taggedText } from './format.js';
import { answersMatch } from './maths.js';
import type { Reward, RewardSample } from './reward.js';

export interface MathsRewardOptions {
  /** Field of the row with the reference answer: a number, the bare answer, or a worked solution. Default `answer`. */
  field?: string;
  /** Look for the answer between `<tag>` and `</tag>` only; without them the completion is wrong. Default: anywhere. */
  tag?: string;
  weight?: number;
}

/**
 * 1 when the answer of the completion (`\boxed{…}`, after `####`, or its last number) equals the reference
 * mathematically, 0 otherwise. A row without a reference cannot be scored.
 */
export function mathsReward({ field = 'answer', tag, weight }: MathsRewardOptions = {}): Reward {
  const score = ({ record, completion }: RewardSample) => {
    const reference = record[field];
    if (typeof reference !== 'string' && typeof reference !== 'number') return Number.NaN;
    const text = tag === undefined ? completion : taggedText(completion, tag);
    return text !== undefined && answersMatch(text, String(reference)) ? 1 : 0;
  };
  return { name: 'maths', weight, score: (batch) => batch.map(score) };
}
