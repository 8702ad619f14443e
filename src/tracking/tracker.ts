/** A completion as reports and logs show it. */
export interface TrackedCompletion {
  step: number;
  /** `train` or `eval`. */
  split: string;
  prompt: string;
  completion: string;
  reward: number;
  /** Reward by name, before weights; null where it could not be scored. */
  rewards: Record<string, number | null>;
  advantage: number | null;
  stopReason: string;
}

/** Receives what a run measures. A tracker never delays or fails a step: it queues, and reports its own errors. */
export interface Tracker {
  start?(config: Record<string, unknown>): Promise<void> | void;
  metrics(step: number, values: Readonly<Record<string, number>>): void;
  completions?(rows: readonly TrackedCompletion[]): void;
  finish?(): Promise<void>;
}
