import type { EncodedPrompt } from '../data/encode.js';
import type { PromptRecord } from '../data/prompts.js';
import { GrpoError } from '../errors.js';
import type { Reward, RewardSample } from '../rewards/reward.js';
import { type RewardFailure, type ScoredBatch, scoreBatch } from '../rewards/score.js';
import type { Completion, GenerateOptions, RolloutEngine } from '../rollout/engine.js';
import type { TrackedCompletion } from '../tracking/tracker.js';

export interface GeneratedPrompt extends EncodedPrompt {
  record: PromptRecord;
}

/** Completions of some prompts with their scores; those of a prompt stand side by side. */
export interface ScoredCompletions {
  samples: RewardSample[];
  completions: Completion[];
  scored: ScoredBatch;
  failures: RewardFailure[];
}

export async function generateAndScore(
  engine: RolloutEngine,
  prompts: readonly GeneratedPrompt[],
  rewards: readonly Reward[],
  options: GenerateOptions,
): Promise<ScoredCompletions> {
  const completions = await complete(engine, prompts, options);
  const n = options.n ?? 1;
  const samples = samplesOf(
    completions,
    completions.map((_, i) => prompts[Math.floor(i / n)]!),
  );
  const scored = await scoreBatch(rewards, samples);
  return { samples, completions, scored, failures: scored.failures };
}

/** `n` completions a prompt, in the order of the prompts. */
export async function complete(
  engine: RolloutEngine,
  prompts: readonly GeneratedPrompt[],
  options: GenerateOptions,
): Promise<Completion[]> {
  const promptIds = prompts.map((prompt) => prompt.ids);
  const groups = await engine.generate(promptIds, options);
  const n = options.n ?? 1;
  if (groups.length !== prompts.length || groups.some((group) => group.length !== n)) {
    const got = `${groups.length} groups of ${[...new Set(groups.map((group) => group.length))].join(' or ')}`;
    throw new GrpoError(
      'GRPO_ENGINE',
      `The rollout engine gave ${got} completions for ${prompts.length} prompts, n ${n}`,
    );
  }
  return groups.flat();
}

/** What rewards see: `asked` has the prompt of each completion. */
export function samplesOf(completions: readonly Completion[], asked: readonly GeneratedPrompt[]): RewardSample[] {
  return completions.map(({ text: said, completionIds, stopReason }, i) => {
    const { record, text } = asked[i]!;
    return { record, prompt: text, completion: said, completionIds, stopReason };
  });
}

/** The completions as trackers get them. */
export function trackedCompletions(
  { samples, scored }: ScoredCompletions,
  advantages: ArrayLike<number> | null,
  at: { step: number; split: string },
): TrackedCompletion[] {
  const orNull = (score: number | null) => (score === null || Number.isNaN(score) ? null : score);
  return samples.map(({ prompt, completion, stopReason }, i) => ({
    ...at,
    prompt,
    completion,
    reward: scored.totals[i]!,
    rewards: Object.fromEntries(Object.entries(scored.scores).map(([name, scores]) => [name, orNull(scores[i]!)])),
    advantage: advantages?.[i] ?? null,
    stopReason,
  }));
}
