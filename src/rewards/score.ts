import type { PromptRecord } from '../data/prompts.js';
import { InvalidArgumentError } from '../errors.js';
import type { Reward, RewardFunction, RewardSample, Scores } from './reward.js';

const defaultTimeoutMs = 60_000;

/** A reward that could not score a batch, and why. */
export interface RewardFailure {
  reward: string;
  reason: 'threw' | 'wrong-count' | 'timeout';
  message: string;
}

export interface ScoredBatch {
  /** Weighted sum of the rewards of each sample; NaN where a sample cannot be scored. */
  totals: Float64Array;
  /** By reward, before weights: a score a sample, NaN where it could not be scored, null where it does not apply. */
  scores: Record<string, (number | null)[]>;
  failures: RewardFailure[];
}

/** A reward given as a bare function is named after it. */
export function asRewards(rewards: readonly (Reward | RewardFunction)[], weights?: readonly number[] | null): Reward[] {
  if (!Array.isArray(rewards) || rewards.length === 0) {
    throw new InvalidArgumentError('rewards', 'at least one reward', rewards);
  }
  if (weights && weights.length !== rewards.length) {
    throw new InvalidArgumentError('rewardWeights', `${rewards.length} numbers, one a reward`, weights);
  }
  const named = rewards.map((given, i) => checkReward(given, i, weights?.[i]));
  const twice = named.find((reward, i) => named.findIndex((other) => other.name === reward.name) !== i);
  if (twice) throw new InvalidArgumentError('rewards', 'names that differ from each other', twice.name);
  return named;
}

function checkReward(given: Reward | RewardFunction, index: number, weight: number | undefined): Reward {
  const reward = typeof given === 'function' ? { name: given.name || `reward_${index}`, score: given } : given;
  if (typeof reward?.score !== 'function' || typeof reward.name !== 'string' || reward.name === '') {
    throw new InvalidArgumentError(`rewards[${index}]`, 'a function, or an object with name and score', given);
  }
  if (weight !== undefined && reward.weight !== undefined) {
    throw new InvalidArgumentError(`rewards[${index}].weight`, 'no weight beside rewardWeights', reward.weight);
  }
  const result = { ...reward, weight: weight ?? reward.weight ?? 1, timeoutMs: reward.timeoutMs ?? defaultTimeoutMs };
  if (!Number.isFinite(result.weight))
    throw new InvalidArgumentError(`${reward.name}.weight`, 'a number', reward.weight);
  if (!(result.timeoutMs > 0))
    throw new InvalidArgumentError(`${reward.name}.timeoutMs`, 'more than 0', reward.timeoutMs);
  return result;
}

/**
 * Scores a batch with all rewards at the same time. A reward that throws, returns the wrong number of scores or takes
 * longer than its time limit makes its samples unscorable; nothing is thrown. (A function that never gives control back
 * cannot be stopped: run such work in a process or worker of its own.)
 */
export async function scoreBatch(rewards: readonly Reward[], samples: readonly RewardSample[]): Promise<ScoredBatch> {
  const failures: RewardFailure[] = [];
  const columns = await Promise.all(
    rewards.map(async (reward) => {
      try {
        return normalise(reward, await withTimeout(reward, samples), samples.length);
      } catch (error) {
        const reason = error instanceof RewardError ? error.reason : 'threw';
        const message = error instanceof Error ? error.message : String(error);
        failures.push({ reward: reward.name, reason, message });
        return new Array<number | null>(samples.length).fill(Number.NaN);
      }
    }),
  );
  const totals = Float64Array.from(samples, (_, i) => weightedSum(rewards, columns, i));
  const scores = Object.fromEntries(rewards.map((reward, k) => [reward.name, columns[k]!]));
  return { totals, scores, failures };
}

/** Lets the rewards refuse rows before a run begins. Throws an `InvalidArgumentError` that names the first such row. */
export function checkRows(name: string, records: readonly PromptRecord[], rewards: readonly Reward[]): void {
  for (const reward of rewards) {
    records.forEach((record, i) => {
      try {
        reward.check?.(record);
      } catch (error) {
        const expected = `a row that the reward ${reward.name} can score (${(error as Error).message})`;
        throw new InvalidArgumentError(`${name}[${i}]`, expected, record, { cause: error });
      }
    });
  }
}

class RewardError extends Error {
  constructor(
    readonly reason: RewardFailure['reason'],
    message: string,
  ) {
    super(message);
  }
}

async function withTimeout(reward: Reward, samples: readonly RewardSample[]): Promise<Scores> {
  const limit = reward.timeoutMs ?? defaultTimeoutMs;
  if (limit === Number.POSITIVE_INFINITY) return reward.score(samples);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new RewardError('timeout', `no scores after ${limit} ms`)), limit);
  });
  try {
    return await Promise.race([reward.score(samples), expired]);
  } finally {
    clearTimeout(timer);
  }
}

function normalise(reward: Reward, scores: Scores, count: number): (number | null)[] {
  const length = typeof scores === 'object' && scores !== null ? scores.length : undefined;
  if (length !== count) {
    throw new RewardError('wrong-count', `${reward.name} returned ${length ?? 'no'} scores for ${count} completions`);
  }
  return Array.from(scores, (score) => {
    if (score === null) return null;
    return typeof score === 'number' && Number.isFinite(score) ? score : Number.NaN;
  });
}

function weightedSum(rewards: readonly Reward[], columns: readonly (number | null)[][], sample: number): number {
  let sum = 0;
  let applied = 0;
  for (const [k, reward] of rewards.entries()) {
    const score = columns[k]![sample]!;
    if (score === null) continue;
    sum += (reward.weight ?? 1) * score;
    applied++;
  }
  return applied > 0 ? sum : Number.NaN;
}
