import type { Reward } from '../rewards/reward.js';
import type { RolloutEngine } from '../rollout/engine.js';
import type { TrackedCompletion } from '../tracking/tracker.js';
import type { GRPOConfig } from './config.js';
import { type GeneratedPrompt, generateAndScore, type ScoredCompletions, trackedCompletions } from './generation.js';
import { rolloutMetrics } from './metrics.js';

export interface Evaluation {
  /** As in training, with `eval/` before each name. */
  metrics: Record<string, number>;
  completions: TrackedCompletion[];
}

/** Completes and scores held-out prompts. The seed is the same each time, so that evaluations differ by weights only. */
export async function evaluate(
  engine: RolloutEngine,
  prompts: readonly GeneratedPrompt[],
  rewards: readonly Reward[],
  config: GRPOConfig,
  step: number,
): Promise<Evaluation> {
  const parts: ScoredCompletions[] = [];
  const size = config.perDeviceEvalBatchSize;
  for (let begin = 0; begin < prompts.length; begin += size) {
    const options = {
      maxNewTokens: config.maxCompletionLength,
      n: config.numGenerationsEval,
      temperature: config.evalTemperature,
      topK: config.topK,
      topP: config.topP,
      minP: config.minP,
      stop: config.stop,
      seed: (config.seed + begin) >>> 0,
    };
    parts.push(await generateAndScore(engine, prompts.slice(begin, begin + size), rewards, options));
  }
  const whole = join(parts);
  const metrics = rolloutMetrics(whole.scored, whole.completions, config.numGenerationsEval);
  return {
    metrics: Object.fromEntries(Object.entries(metrics).map(([name, value]) => [`eval/${name}`, value])),
    completions: trackedCompletions(whole, null, { step, split: 'eval' }),
  };
}

function join(parts: readonly ScoredCompletions[]): ScoredCompletions {
  const names = Object.keys(parts[0]!.scored.scores);
  const failures = parts.flatMap((part) => part.failures);
  return {
    samples: parts.flatMap((part) => part.samples),
    completions: parts.flatMap((part) => part.completions),
    scored: {
      totals: Float64Array.from(parts.flatMap((part) => [...part.scored.totals])),
      scores: Object.fromEntries(names.map((name) => [name, parts.flatMap((part) => part.scored.scores[name]!)])),
      failures,
    },
    failures,
  };
}
