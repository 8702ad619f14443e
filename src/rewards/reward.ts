import type { PromptRecord } from '../data/prompts.js';

/** One completion to be scored. */
export interface RewardSample {
  /** The row of the data set that the prompt came from, with every field of it. */
  record: PromptRecord;
  /** The prompt as the model saw it. */
  prompt: string;
  completion: string;
  completionIds: Int32Array;
  stopReason: 'stop' | 'length';
}

/**
 * A score a sample. null: this reward does not apply to the sample, the other rewards count alone. NaN: the sample cannot
 * be scored and takes no part in the update.
 */
export type Scores = ArrayLike<number | null>;
export type RewardFunction = (batch: readonly RewardSample[]) => Scores | Promise<Scores>;

export interface Reward {
  /** The name in metrics, tables and reports. */
  name: string;
  score: RewardFunction;
  /** Throws on a row that it could never score. Called with every row before a run begins. */
  check?: (record: PromptRecord) => void;
  /** Factor in the sum of the rewards. Default 1. */
  weight?: number;
  /** Milliseconds after which a batch counts as unscorable. Default 60,000. */
  timeoutMs?: number;
}
