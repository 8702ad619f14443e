/** How completions are sampled. */
export interface GenerateOptions {
  /** Most tokens of a completion, the stop token included. */
  maxNewTokens: number;
  /** Completions a prompt. Default 1. */
  n?: number;
  /** 0 takes the most likely token. Default 1. */
  temperature?: number;
  /** Keep the k most likely tokens; 0 keeps all. Default 0. */
  topK?: number;
  /** Keep the most likely tokens that together reach this probability. Default 1. */
  topP?: number;
  /** Keep tokens at least this share of the most likely one's probability. Default 0. */
  minP?: number;
  /** A sample is a function of seed, prompt index, sample index and weights, not of what else is in the batch. */
  seed?: number;
  /** Index of the first prompt among all that share the seed: each rank of a run is asked for a part of them. Default 0. */
  firstPrompt?: number;
  /** Strings that end a completion; the text is cut before the first of them, the ids are kept. */
  stop?: readonly string[];
  /** Token ids that end a completion. Default: the model's own. */
  stopTokenIds?: readonly number[];
  signal?: AbortSignal;
}

export interface Completion {
  completionIds: Int32Array;
  text: string;
  /** Log-prob of each token of `completionIds` under softmax(logits / temperature), before any filter. */
  logProbs: Float32Array;
  /** `stop`: a stop token or string; `length`: maxNewTokens or the model's context was reached. */
  stopReason: 'stop' | 'length';
  /** `version` of the engine when it was sampled, where the engine has weights of its own. */
  version?: number;
}

/** Where completions come from: the policy itself, or a server that holds a copy of its weights. */
export interface RolloutEngine {
  /** One array of `n` completions a prompt, in the order of the prompts. */
  generate(promptIds: readonly Int32Array[], options: GenerateOptions): Promise<Completion[][]>;
  /** Called after each optimiser update; absent where the engine reads the policy's own weights. */
  weightsChanged?(step: number): Promise<void>;
  /** How often the engine's weights have changed, where it has its own. */
  readonly version?: number;
  /** How many of the next calls of `generate` may begin while the policy is still being updated. Absent: none. */
  readonly lookahead?: number;
  /** Begins what `generate` will soon be asked for with the same arguments; errors come out there. */
  prefetch?(promptIds: readonly Int32Array[], options: GenerateOptions): void;
  close?(): Promise<void>;
}
