import type { ProcessGroup } from '../distributed/process-group.js';
import { CollectiveError, GrpoError, InvalidArgumentError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { GRPOConfig, SFTConfig } from './config.js';

/**
 * Runs `work` on every rank and gives each the results of all, in rank order: what JSON can hold. When one fails, all
 * throw: the rank itself its own error, the others one that names it.
 */
export async function togetherOrNot<T>(group: ProcessGroup, work: () => Promise<T>): Promise<T[]> {
  let outcome: { value?: T; error?: string };
  let own: unknown;
  try {
    outcome = { value: await work() };
  } catch (error) {
    // The group is dead: there is nobody to tell.
    if (error instanceof CollectiveError) throw error;
    own = error;
    outcome = { error: error instanceof Error ? error.message : String(error) };
  }
  if (group.worldSize === 1) {
    if (own !== undefined) throw own;
    return [outcome.value as T];
  }
  const outcomes = await group.allGatherValues(outcome);
  if (own !== undefined) throw own;
  const failed = outcomes.findIndex(({ error }) => error !== undefined);
  if (failed >= 0) throw new GrpoError('GRPO_RANK_FAILED', `Rank ${failed} failed: ${outcomes[failed]!.error}`);
  return outcomes.map(({ value }) => value as T);
}

/** Numbers that JSON does not have stand as texts, so that `numbersFromJson` gives the same numbers. */
export function numbersToJson(values: ArrayLike<number>): (number | string)[] {
  return Array.from(values, (value) => (Number.isFinite(value) ? value : String(value)));
}

export function numbersFromJson(values: readonly (number | string)[]): number[] {
  return values.map(Number);
}

/** Items `begin` up to `end` of `count` that fall to a rank when each gets as many as any other, or one more. */
export function evenShare(count: number, rank: number, worldSize: number): { begin: number; end: number } {
  return { begin: Math.floor((count * rank) / worldSize), end: Math.floor((count * (rank + 1)) / worldSize) };
}

/** Checks that all ranks were made to train the same, and gives them the weights of rank 0. */
export async function alignRanks(
  group: ProcessGroup,
  policy: CausalLM,
  config: GRPOConfig | SFTConfig,
  rows: number | undefined,
): Promise<void> {
  const { count, dtype, flat } = policy.parameters;
  const { activations } = policy.decoder;
  const weights = `${count} ${dtype}`;
  const own: Record<string, unknown> = { ...config, outputDir: null, weights, activations, rows };
  const texts = Object.fromEntries(Object.entries(own).map(([name, value]) => [name, JSON.stringify(value) ?? 'none']));
  const all = await group.allGatherValues(texts);
  all.forEach((theirs, rank) => {
    const name = Object.keys(texts).find((key) => theirs[key] !== all[0]![key]);
    if (name) {
      throw new InvalidArgumentError(name, `the value of rank 0, ${all[0]![name]},`, `${theirs[name]} on rank ${rank}`);
    }
  });
  group.broadcast(flat, 0);
}
