import { InvalidArgumentError } from '../errors.js';
import type { Reward } from './reward.js';

export interface LengthRewardOptions {
  /** Tokens of the completion that get the full reward. */
  target: number;
  /** Tokens away from the target at which the reward reaches 0. Default: the target. */
  tolerance?: number;
  weight?: number;
}

/** 1 at `target` tokens, falling linearly to 0 at `tolerance` tokens more or less. */
export function lengthReward({ target, tolerance = target, weight }: LengthRewardOptions): Reward {
  requirePositive('target', target);
  requirePositive('tolerance', tolerance);
  const score = (tokens: number) => Math.max(0, 1 - Math.abs(tokens - target) / tolerance);
  return { name: 'length', weight, score: (batch) => batch.map((sample) => score(sample.completionIds.length)) };
}

export interface OverlongPenaltyOptions {
  /** Tokens from which the penalty is full: usually `maxCompletionLength`. */
  maxLength: number;
  /** Tokens before `maxLength` over which the penalty grows. */
  buffer: number;
  weight?: number;
}

/** 0 up to maxLength - buffer tokens, falling linearly to -1 at maxLength (soft overlong punishment, DAPO, equation 13). */
export function overlongPenalty({ maxLength, buffer, weight }: OverlongPenaltyOptions): Reward {
  requirePositive('maxLength', maxLength);
  requirePositive('buffer', buffer);
  if (buffer > maxLength) throw new InvalidArgumentError('buffer', `at most maxLength (${maxLength})`, buffer);
  const score = (tokens: number) => Math.max(-1, Math.min(0, (maxLength - buffer - tokens) / buffer));
  return { name: 'overlong', weight, score: (batch) => batch.map((sample) => score(sample.completionIds.length)) };
}

function requirePositive(name: string, value: unknown): void {
  if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) {
    throw new InvalidArgumentError(name, 'a number of tokens above 0', value);
  }
}
