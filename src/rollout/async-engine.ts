import { InvalidArgumentError } from '../errors.js';
import type { Completion, GenerateOptions, RolloutEngine } from './engine.js';

export interface AsyncRolloutOptions {
  /** Most updates between the weights of a completion and those it is first used for. Default 1. */
  maxStaleness?: number;
}

interface Begun {
  key: string;
  /** Updates before it was begun. */
  updates: number;
  completions: Promise<Completion[][]>;
}

/**
 * Samples the next completions while the policy is updated with the present ones, on an engine with weights of its own
 * (a server). They are up to `maxStaleness` updates old; use the trainer's `rolloutCorrection`, which weighs them by the
 * ratio of the policy's probabilities now to those that they were sampled with. Older ones are sampled again.
 */
export class AsyncRolloutEngine implements RolloutEngine {
  readonly lookahead: number;
  readonly #engine: RolloutEngine;
  readonly #closed = new AbortController();
  #begun: Begun[] = [];
  #updates = 0;

  constructor(engine: RolloutEngine, { maxStaleness = 1 }: AsyncRolloutOptions = {}) {
    if (!engine.weightsChanged) {
      throw new InvalidArgumentError('engine', 'one with weights of its own, which updates do not touch,', engine);
    }
    if (!Number.isSafeInteger(maxStaleness) || maxStaleness < 1) {
      throw new InvalidArgumentError('maxStaleness', 'a whole number of at least 1', maxStaleness);
    }
    this.#engine = engine;
    this.lookahead = maxStaleness;
  }

  get version(): number | undefined {
    return this.#engine.version;
  }

  prefetch(promptIds: readonly Int32Array[], options: GenerateOptions): void {
    const key = keyOf(promptIds, options);
    if (this.#begun.some((begun) => begun.key === key && this.#fresh(begun))) return;
    this.#begun = this.#begun.filter((begun) => begun.key !== key);
    const { signal } = this.#closed;
    const both = options.signal ? AbortSignal.any([options.signal, signal]) : signal;
    const completions = this.#engine.generate(promptIds, { ...options, signal: both });
    // Its error comes out when it is asked for.
    completions.catch(() => {});
    this.#begun.push({ key, updates: this.#updates, completions });
  }

  async generate(promptIds: readonly Int32Array[], options: GenerateOptions): Promise<Completion[][]> {
    const key = keyOf(promptIds, options);
    const at = this.#begun.findIndex((begun) => begun.key === key);
    const found = at < 0 ? undefined : this.#begun.splice(at, 1)[0];
    return found && this.#fresh(found) ? found.completions : this.#engine.generate(promptIds, options);
  }

  async weightsChanged(step: number): Promise<void> {
    this.#updates++;
    await this.#engine.weightsChanged!(step);
  }

  /** Gives up what was begun and not asked for. */
  async close(): Promise<void> {
    this.#closed.abort(new Error('The rollout engine was closed'));
    await Promise.allSettled(this.#begun.map(({ completions }) => completions));
    await this.#engine.close?.();
  }

  #fresh({ updates }: Begun): boolean {
    return this.#updates - updates <= this.lookahead;
  }
}

function keyOf(promptIds: readonly Int32Array[], { signal: _, ...options }: GenerateOptions): string {
  return JSON.stringify([Object.entries(options).sort(), promptIds.map((ids) => [...ids])]);
}
