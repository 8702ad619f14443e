import { encodeDemonstration } from '../data/encode.js';
import { deriveSeed } from '../data/random.js';
import type { DemonstrationRecord } from '../data/records.js';
import { Sampler, type SamplerState } from '../data/sampler.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { singleProcessGroup } from '../distributed/single-process-group.js';
import { FileFormatError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { TokenSequence } from '../models/token-scores.js';
import type { Scope } from '../tensor.js';
import { microBatches, tokenShare } from './balance.js';
import type { GRPOConfig } from './config.js';
import { backwardCrossEntropy } from './cross-entropy.js';
import type { AdamW } from './optimizer.js';

/** Keeps the order of the demonstrations from being that of the prompts. */
const orderStream = 0xffff_ffff;

/** Expert replies that are mixed into each update of GRPO, in an order that is new for each pass over them. */
export class Cloning {
  readonly #rows: readonly DemonstrationRecord[];
  readonly #sampler: Sampler;
  readonly #config: GRPOConfig;
  readonly #policy: CausalLM;
  readonly #group: ProcessGroup;

  constructor(policy: CausalLM, rows: readonly DemonstrationRecord[], config: GRPOConfig, group?: ProcessGroup) {
    this.#policy = policy;
    this.#group = group ?? singleProcessGroup(policy.device);
    this.#rows = rows;
    this.#config = config;
    this.#sampler = new Sampler(rows.length, { seed: deriveSeed(config.seed, orderStream), shuffle: true });
  }

  /** The replies of the next update, of all ranks, in tokens; those that carry loss are the completion. */
  next(): TokenSequence[] {
    const { sftBatchSize, perDeviceTrainBatchSize, gradientAccumulationSteps, sftMaxLength, sftTokens } = this.#config;
    const count = sftBatchSize ?? perDeviceTrainBatchSize * gradientAccumulationSteps * this.#group.worldSize;
    return this.#sampler.take(count).map((row) => {
      const sequence = encodeDemonstration(this.#rows[row]!, this.#policy.tokenizer, sftMaxLength);
      return sftTokens === 'all' ? withPrompt(sequence) : sequence;
    });
  }

  /**
   * Adds the gradients of sftCoefficient * (mean over the replies of the mean cross-entropy of their tokens), as far as
   * this rank works on them; `optimizer` then updates. What is returned gives this rank's part of that mean, without the
   * coefficient.
   */
  backward(sequences: readonly TokenSequence[], optimizer: AdamW, scope: Scope): { read(): Promise<number> } {
    const { perDeviceTrainBatchSize: size, sftCoefficient } = this.#config;
    const { rank, worldSize } = this.#group;
    const cut = (of: number) => microBatches(tokenShare(sequences, of, worldSize), size);
    const parts = optimizer.backwardEach(
      cut(rank),
      (of) => cut(of).length,
      (batch, onGradients) => {
        const shares = batch.map(({ completionIds }) => 1 / (sequences.length * completionIds.length));
        const weights = shares.map((share) => sftCoefficient * share);
        const { logProbs } = backwardCrossEntropy(this.#policy, batch, weights, this.#config, scope, onGradients);
        return { logProbs, shares: batch.flatMap(({ completionIds }, b) => repeat(shares[b]!, completionIds.length)) };
      },
    );
    return {
      read: async () => {
        const values = await Promise.all(parts.map(({ logProbs }) => logProbs.read()));
        return parts.reduce((sum, { shares }, p) => sum - dot(shares, values[p]!), 0);
      },
    };
  }

  get state(): SamplerState & { rows: number } {
    return { ...this.#sampler.state, rows: this.#rows.length };
  }

  /** Goes on where `state` of a checkpoint in `folder` says. */
  restore(state: unknown, folder: string): void {
    const { epoch, position, rows } = (state ?? {}) as Partial<ReturnType<() => Cloning['state']>>;
    if (rows !== this.#rows.length) {
      const made = rows === undefined ? 'without demonstrations' : `with ${rows} demonstrations`;
      throw new FileFormatError(folder, `made ${made}; here are ${this.#rows.length}`);
    }
    this.#sampler.restore({ epoch: epoch!, position: position! });
  }
}

/** The same tokens with a loss on all that have one before them. */
function withPrompt({ promptIds, completionIds }: TokenSequence): TokenSequence {
  const all = [...Array.from(promptIds), ...Array.from(completionIds)];
  return { promptIds: all.slice(0, 1), completionIds: all.slice(1) };
}

function repeat(value: number, count: number): number[] {
  return new Array<number>(count).fill(value);
}

function dot(a: readonly number[], b: ArrayLike<number>): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}
