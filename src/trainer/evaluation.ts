import type { ProcessGroup } from '../distributed/process-group.js';
import type { Reward } from '../rewards/reward.js';
import type { RolloutEngine } from '../rollout/engine.js';
import type { TrackedCompletion } from '../tracking/tracker.js';
import type { GRPOConfig } from './config.js';
import {
  type GeneratedPrompt,
  generateAndScore,
  type ScoredCompletions,
  samplesOf,
  trackedCompletions,
} from './generation.js';
import { rolloutMetrics } from './metrics.js';
import {
  completionsFromJson,
  completionsToJson,
  drivenByOne,
  joinScores,
  scoresFromJson,
  scoresToJson,
} from './rank-generation.js';
import { togetherOrNot } from './ranks.js';

export interface Evaluation {
  /** As in training, with `eval/` before each name. */
  metrics: Record<string, number>;
  completions: TrackedCompletion[];
}

/**
 * Completes and scores held-out prompts; each rank takes some of the batches. The seed is the same each time, so that
 * evaluations differ by weights only.
 */
export async function evaluate(
  engine: RolloutEngine,
  prompts: readonly GeneratedPrompt[],
  rewards: readonly Reward[],
  config: GRPOConfig,
  step: number,
  group: ProcessGroup,
): Promise<Evaluation> {
  const size = config.perDeviceEvalBatchSize;
  const count = Math.ceil(prompts.length / size);
  const run = (batch: number) => {
    const begin = batch * size;
    return generateAndScore(engine, prompts.slice(begin, begin + size), rewards, {
      maxNewTokens: config.maxCompletionLength,
      n: config.numGenerationsEval,
      temperature: config.evalTemperature,
      topK: config.topK,
      topP: config.topP,
      minP: config.minP,
      stop: config.stop,
      seed: (config.seed + begin) >>> 0,
    });
  };
  const { rank, worldSize } = group;
  const isMine = (batch: number) => (drivenByOne(engine) ? rank === 0 : batch % worldSize === rank);
  const parts: ScoredCompletions[] = [];
  const made = await togetherOrNot(group, async () => {
    const own = [];
    for (let batch = 0; batch < count; batch++) {
      if (!isMine(batch)) continue;
      const part = await run(batch);
      if (worldSize === 1) parts.push(part);
      else own.push({ batch, completions: completionsToJson(part.completions), scored: scoresToJson(part.scored) });
    }
    return own;
  });
  for (const { batch, completions: json, scored } of made.flat().toSorted((a, b) => a.batch - b.batch)) {
    const completions = completionsFromJson(json);
    const first = batch * size;
    const asked = completions.map((_, i) => prompts[first + Math.floor(i / config.numGenerationsEval)]!);
    const scores = scoresFromJson(scored);
    parts.push({ samples: samplesOf(completions, asked), completions, scored: scores, failures: scores.failures });
  }
  const scored = joinScores(parts.map((part) => part.scored));
  const whole = {
    samples: parts.flatMap((part) => part.samples),
    completions: parts.flatMap((part) => part.completions),
    scored,
    failures: scored.failures,
  };
  const metrics = rolloutMetrics(whole.scored, whole.completions, config.numGenerationsEval);
  return {
    metrics: Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval/${name}`, value])),
    completions: trackedCompletions(whole, null, { step, split: 'eval' }),
  };
}
