import type { ProcessGroup } from '../distributed/process-group.js';
import type { Reward } from '../rewards/reward.js';
import { type ScoredBatch, scoreBatch } from '../rewards/score.js';
import type { Completion, GenerateOptions, RolloutEngine } from '../rollout/engine.js';
import { complete, type GeneratedPrompt, generateAndScore, type ScoredCompletions, samplesOf } from './generation.js';
import { evenShare, numbersFromJson, numbersToJson, togetherOrNot } from './ranks.js';

/** A generation: what the engine is asked for. */
export interface Question {
  prompts: readonly GeneratedPrompt[];
  /** The prompt of each completion. */
  asked: readonly GeneratedPrompt[];
  /** Completions that are scored together: those of one row. */
  groupSize: number;
  options: GenerateOptions;
}

/**
 * Completions and scores of a generation, made by all ranks together and then known to each. The samples are those of a
 * run on one rank. An engine with weights of its own, such as a server, is driven by rank 0 alone.
 */
export async function generateOnRanks(
  engine: RolloutEngine,
  question: Question,
  rewards: readonly Reward[],
  group: ProcessGroup,
): Promise<ScoredCompletions> {
  const { prompts, asked, groupSize, options } = question;
  const { rank, worldSize } = group;
  if (worldSize === 1) return generateAndScore(engine, prompts, rewards, options);
  const made = await togetherOrNot(group, async () => {
    if (drivenByOne(engine)) return rank === 0 ? (await complete(engine, prompts, options)).map(toJson) : [];
    const { begin, end } = evenShare(asked.length, rank, worldSize);
    if (begin === end) return [];
    const part = asked.slice(begin, end);
    return (await complete(engine, part, { ...options, n: 1, firstPrompt: begin })).map(toJson);
  });
  const completions = made.flat().map(fromJson);
  const samples = samplesOf(completions, asked);
  const parts = await togetherOrNot(group, async () => {
    const { begin, end } = evenShare(asked.length / groupSize, rank, worldSize);
    if (begin === end) return null;
    return scoresToJson(await scoreBatch(rewards, samples.slice(begin * groupSize, end * groupSize)));
  });
  const scored = joinScores(parts.filter((part) => part !== null).map(scoresFromJson));
  return { samples, completions, scored, failures: scored.failures };
}

/** Whether the engine has weights of its own, which only one rank may hand over. */
export function drivenByOne(engine: RolloutEngine): boolean {
  return engine.weightsChanged !== undefined;
}

export function joinScores(parts: readonly ScoredBatch[]): ScoredBatch {
  const names = Object.keys(parts[0]!.scores);
  return {
    totals: Float64Array.from(parts.flatMap((part) => [...part.totals])),
    scores: Object.fromEntries(names.map((name) => [name, parts.flatMap((part) => part.scores[name]!)])),
    failures: parts.flatMap((part) => part.failures),
  };
}

/** As it is exchanged between ranks: what JSON can hold. */
export function completionsToJson(completions: readonly Completion[]) {
  return completions.map(toJson);
}

export function completionsFromJson(json: ReturnType<typeof completionsToJson>): Completion[] {
  return json.map(fromJson);
}

function toJson({ completionIds, logProbs, ...rest }: Completion) {
  return { ...rest, completionIds: Array.from(completionIds), logProbs: numbersToJson(logProbs) };
}

function fromJson({ completionIds, logProbs, ...rest }: ReturnType<typeof toJson>): Completion {
  return {
    ...rest,
    completionIds: Int32Array.from(completionIds),
    logProbs: Float32Array.from(numbersFromJson(logProbs)),
  };
}

export function scoresToJson({ totals, scores, failures }: ScoredBatch) {
  const columns = Object.entries(scores).map(([name, values]) => [
    name,
    values.map((value) => (value === null ? null : numbersToJson([value])[0]!)),
  ]);
  return {
    totals: numbersToJson(totals),
    scores: Object.fromEntries(columns) as Record<string, (number | string | null)[]>,
    failures,
  };
}

export function scoresFromJson({ totals, scores, failures }: ReturnType<typeof scoresToJson>): ScoredBatch {
  const columns = Object.entries(scores).map(([name, values]) => [
    name,
    values.map((value) => (value === null ? null : Number(value))),
  ]);
  return { totals: Float64Array.from(numbersFromJson(totals)), scores: Object.fromEntries(columns), failures };
}
