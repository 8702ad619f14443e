import type { CausalLM } from '../../models/causal-lm.js';
import type { Reward, RewardSample } from '../../rewards/reward.js';
import { maxCompletionLength } from './settings.js';
import { createRewards, type SumRecord } from './task.js';

/** Shares of held-out prompts, from 0 to 1, and the completions behind them. */
export interface Evaluation {
  correct: number;
  format: number;
  completions: string[];
}

/** Completes the prompts greedily, so that nothing depends on a seed. */
export async function evaluateGreedily(policy: CausalLM, records: readonly SumRecord[]): Promise<Evaluation> {
  const options = { maxNewTokens: maxCompletionLength, temperature: 0 };
  const groups = await policy.generate(
    records.map(({ prompt }) => prompt),
    options,
  );
  const samples = groups.map(([completion], i): RewardSample => {
    const { text, completionIds, stopReason } = completion!;
    return { record: records[i]!, prompt: records[i]!.prompt, completion: text, completionIds, stopReason };
  });
  const [correct, format] = await Promise.all(createRewards().map((reward) => share(reward, samples)));
  return { correct: correct!, format: format!, completions: samples.map((sample) => sample.completion) };
}

async function share(reward: Reward, samples: readonly RewardSample[]): Promise<number> {
  const scores = Array.from(await reward.score(samples), Number);
  return scores.reduce((sum, score) => sum + score, 0) / samples.length;
}
