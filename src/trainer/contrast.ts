import type { PromptRecord } from '../data/prompts.js';
import type { ScoredBatch } from '../rewards/score.js';
import type { ContrastConfig } from './config.js';
import type { GeneratedPrompt } from './generation.js';
import { mean } from './metrics.js';

/** What a prompt ends with when its reply shall not think. */
export const emptyThinking = '<think>\n\n</think>\n';

/** The prompt with its thinking closed before it has begun. */
export function withoutThinkingRoom(prompt: string): string {
  const opened = ['<think>\n\n', '<think>\n', '<think>'].find((ending) => prompt.endsWith(ending)) ?? '';
  return prompt + emptyThinking.slice(opened.length);
}

/** The completions of a generation that belong together: those of one prompt. */
export interface ContrastGroup {
  /** Positions of the completions that think, and of those that do not. */
  thinking: number[];
  direct: number[];
}

/** Why a completion is left out of the update; null: it takes part. */
type Verdict = 'direct' | 'reference' | 'group' | null;

/** Contrast applies to each prompt whose row does not say `contrast: false`. */
export function contrasts(record: PromptRecord): boolean {
  return record.contrast !== false;
}

/** A prompt for each completion of a generation: those that think first, then those that do not. */
export function contrastPrompts(
  prompts: readonly GeneratedPrompt[],
  n: number,
  { share }: ContrastConfig,
  encode: (record: PromptRecord, change: (text: string) => string) => GeneratedPrompt,
): { expanded: GeneratedPrompt[]; groups: ContrastGroup[] } {
  const expanded: GeneratedPrompt[] = [];
  const groups = prompts.map((prompt) => {
    const count = contrasts(prompt.record) ? Math.round(n * share) : 0;
    const direct = count > 0 ? encode(prompt.record, withoutThinkingRoom) : prompt;
    const positions = (length: number) => Array.from({ length }, (_, i) => expanded.length + i);
    const group: ContrastGroup = { thinking: positions(n - count), direct: [] };
    expanded.push(...group.thinking.map(() => prompt));
    group.direct = positions(count);
    expanded.push(...group.direct.map(() => direct));
    return group;
  });
  return { expanded, groups };
}

/**
 * Which completions take part in the update. Those without thinking never do. Of those that think: not one that met less
 * than the reference reply of its row (`reference_met`), and none of a group whose best is worse than the worst of its
 * completions without thinking. A completion that could not be compared takes part.
 */
export function selectCompletions(
  groups: readonly ContrastGroup[],
  scored: ScoredBatch,
  records: readonly PromptRecord[],
  config: ContrastConfig,
): Verdict[] {
  const compared = config.score === null ? scored.totals : scored.scores[config.score]!;
  const met = config.met === null ? null : scored.scores[config.met]!;
  const verdicts: Verdict[] = records.map(() => null);
  for (const { thinking, direct } of groups) {
    for (const i of direct) verdicts[i] = 'direct';
    for (const i of thinking) {
      const reference = records[i]!.reference_met;
      const own = met?.[i];
      if (typeof reference === 'number' && typeof own === 'number' && own < reference) verdicts[i] = 'reference';
    }
    if (isWorse(numbersAt(compared, thinking), numbersAt(compared, direct), config)) {
      for (const i of thinking) verdicts[i] = 'group';
    }
  }
  return verdicts;
}

/** The best of `thinking` is below the worst of `direct`. The released code also wanted the former to differ. */
function isWorse(thinking: number[], direct: number[], { released }: ContrastConfig): boolean {
  if (thinking.length === 0 || direct.length === 0) return false;
  if (released && Math.max(...thinking) === Math.min(...thinking)) return false;
  return Math.max(...thinking) < Math.min(...direct);
}

/** The rewards that make the statistics of the groups: NaN leaves a completion out. */
export function statisticsRewards(
  totals: Float64Array,
  groups: readonly ContrastGroup[],
  { statistics, released }: ContrastConfig,
): Float64Array {
  if (statistics === 'all' || released) return totals;
  const rewards = totals.slice();
  for (const { direct } of groups) for (const i of direct) rewards[i] = Number.NaN;
  return rewards;
}

/**
 * Shares of the completions that think, and the scores of both kinds where prompts have both. What the statistics leave
 * out on purpose does not count as unscorable.
 */
export function contrastMetrics(
  groups: readonly ContrastGroup[],
  verdicts: readonly Verdict[],
  scored: ScoredBatch,
  { score }: ContrastConfig,
): Record<string, number> {
  const compared = score === null ? scored.totals : scored.scores[score]!;
  const thinking = groups.flatMap((group) => group.thinking);
  const share = (verdict: Verdict) => thinking.filter((i) => verdicts[i] === verdict).length / thinking.length;
  const both = groups.filter((group) => group.direct.length > 0);
  const scoreOf = (kind: keyof ContrastGroup) => mean(both.flatMap((group) => numbersAt(compared, group[kind])));
  const metrics = {
    frac_reward_unscorable: scored.totals.filter(Number.isNaN).length / scored.totals.length,
    'contrast/kept': share(null),
    'contrast/below_reference': share('reference'),
    'contrast/worse_group': share('group'),
    'contrast/thinking_score': scoreOf('thinking'),
    'contrast/direct_score': scoreOf('direct'),
  };
  return Object.fromEntries(Object.entries(metrics).filter(([, value]) => Number.isFinite(value)));
}

function numbersAt(values: ArrayLike<number | null>, positions: readonly number[]): number[] {
  return positions.map((i) => values[i]).filter((value): value is number => Number.isFinite(value));
}
