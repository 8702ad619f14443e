import { InvalidArgumentError } from '../errors.js';
import type { Reward } from './reward.js';

export interface RegexRewardOptions {
  /** Looked for anywhere in the completion; anchor it with ^ and $ to match the whole. */
  pattern: string | RegExp;
  /** Flags of a pattern given as text, without g and y. Default none. */
  flags?: string;
  /** Name in metrics. Default `regex`. */
  name?: string;
  weight?: number;
}

/** 1 when the completion matches a regular expression, 0 otherwise. */
export function regexReward({ pattern, flags, name = 'regex', weight }: RegexRewardOptions): Reward {
  const expression = compile(pattern, flags);
  return { name, weight, score: (batch) => batch.map(({ completion }) => (expression.test(completion) ? 1 : 0)) };
}

function compile(pattern: unknown, flags: string | undefined): RegExp {
  const source = pattern instanceof RegExp ? pattern.source : pattern;
  if (typeof source !== 'string') throw new InvalidArgumentError('pattern', 'a regular expression', pattern);
  const given = flags ?? (pattern instanceof RegExp ? pattern.flags : '');
  try {
    // Without g and y: these remember a position, so that the same text would match every other time.
    return new RegExp(source, given.replace(/[gy]/g, ''));
  } catch (error) {
    throw new InvalidArgumentError('pattern', `a regular expression (${(error as Error).message})`, pattern);
  }
}
