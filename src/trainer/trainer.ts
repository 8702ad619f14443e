import { Sampler } from '../data/sampler.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { singleProcessGroup } from '../distributed/single-process-group.js';
import { FileFormatError, GrpoError, InvalidArgumentError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import { gradientOrder } from '../models/decoder.js';
import type { RewardFailure } from '../rewards/score.js';
import { combineTrackers } from '../tracking/combine.js';
import type { TrackedCompletion, Tracker } from '../tracking/tracker.js';
import { type CheckpointState, loadCheckpoint, readCheckpoint, readState, saveCheckpoint } from './checkpoint.js';
import { pruneCheckpoints } from './checkpoint-folders.js';
import type { GRPOConfig, SFTConfig } from './config.js';
import { hashConfig } from './hash.js';
import { averageMetrics } from './metrics.js';
import { AdamW } from './optimizer.js';
import { togetherOrNot } from './ranks.js';
import { learningRateAt, totalUpdates } from './schedule.js';

/** What one optimiser update did. */
export interface StepReport {
  /** Counts from 1. */
  step: number;
  loss: number;
  /** Global norm of the gradients before they were scaled down. */
  gradNorm: number;
  learningRate: number;
  /** `docs/training.md` lists them; with those of an evaluation (`eval/...`) when there was one after this update. */
  metrics: Record<string, number>;
  /** The completions that were sampled for this update. */
  completions: TrackedCompletion[];
  /** Rewards that could not score them. */
  rewardFailures: RewardFailure[];
}

export interface TrainingSummary {
  /** Updates so far, those before a resumed checkpoint included. */
  steps: number;
  /** Whether `stop()` or the signal ended the run before its last step. */
  stopped: boolean;
  /** Of the last update; null when there was none. */
  report: StepReport | null;
}

/** What trainers take beside their configuration. */
export interface TrainerOptions {
  /** Its weights are changed in place. */
  policy: CausalLM;
  tracker?: Tracker | readonly Tracker[];
  /** Ends the run after the update in progress; on one rank, that of all. */
  signal?: AbortSignal;
  /**
   * The ranks of a data-parallel run, each with a policy on its own device; `worldSize` times as much then makes an update.
   * All must call the same methods in the same order. The caller closes it.
   */
  processGroup?: ProcessGroup;
}

/** Too many updates in a row had gradients that are not finite. The weights are those before the first of them. */
export class NonFiniteGradientsError extends GrpoError {
  constructor(step: number, skipped: number) {
    const what = `The gradients of ${skipped} updates in a row, the last of them ${step}, were not finite`;
    super('GRPO_NON_FINITE_GRADIENTS', `${what}; the weights are those before them (maxSkippedUpdates)`);
  }
}

/** An update as a kind of trainer reports it. */
export interface Update {
  loss: number;
  gradNorm: number;
  metrics: Record<string, number>;
  completions?: TrackedCompletion[];
  rewardFailures?: RewardFailure[];
  /** Tokens of prompts and completions, and those of the completions alone. */
  tokens: { all: number; completions: number };
}

export interface EvaluationResult {
  metrics: Record<string, number>;
  completions?: TrackedCompletion[];
}

/** What a kind of trainer gives the constructor: how its run is measured. */
export interface RunShape {
  kind: CheckpointState['trainer'];
  /** Rows of the data set; null without one. */
  datasetLength: number | null;
  /** Rows that an update uses. May be a fraction, when rows are used for several updates. */
  rowsPerUpdate: number;
  hasEvaluation: boolean;
}

/**
 * What GRPO and SFT share: the course of a run. `for await (const report of trainer)` makes one update a turn; a loop that
 * was left can be entered again and goes on.
 */
export abstract class Trainer<Config extends GRPOConfig | SFTConfig> implements AsyncIterable<StepReport> {
  readonly config: Config;
  readonly policy: CausalLM;
  /** Updates of the whole run; null when neither a data set nor maxSteps says so. */
  readonly totalSteps: number | null;
  /** Hears what the trainer begins to do: `rollout`, `rewards`, `backward`, `checkpoint`, ... */
  onActivity: (activity: string) => void = () => {};
  /** The ranks of the run; a group of one without others. */
  readonly group: ProcessGroup;
  protected readonly optimizer: AdamW;
  protected readonly sampler: Sampler | null;
  readonly #shape: RunShape;
  readonly #tracker: Tracker;
  readonly #signal: AbortSignal | undefined;
  #window: Record<string, number>[] = [];
  #globalStep = 0;
  #numTokens = 0;
  #skippedInRow = 0;
  #stopRequested = false;
  #stopAgreed = false;
  #lastCheckpoint: { step: number; folder: string } | null = null;
  #busy = false;
  #tracking: 'before' | 'running' | 'finished' = 'before';

  protected constructor(
    config: Config,
    { policy, tracker = [], signal, processGroup }: TrainerOptions,
    shape: RunShape,
  ) {
    const { datasetLength } = shape;
    const epochSteps = datasetLength === null ? null : datasetLength / shape.rowsPerUpdate;
    this.config = config;
    this.policy = policy;
    this.group = processGroup ?? singleProcessGroup(policy.device);
    this.totalSteps = totalUpdates(config, epochSteps);
    if (this.totalSteps === null && (config.lrSchedulerType !== 'constant' || config.warmupRatio > 0)) {
      const expected = 'a number, or lrSchedulerType constant without warmupRatio, when there is no data set';
      throw new InvalidArgumentError('maxSteps', expected, config.maxSteps);
    }
    if ((config.evalSteps !== null || config.evalOnStart) && !shape.hasEvaluation) {
      throw new InvalidArgumentError('evalDataset', 'held-out rows for evalSteps or evalOnStart', undefined);
    }
    this.#shape = shape;
    this.#signal = signal;
    const trackers = Array.isArray(tracker) ? tracker : [tracker];
    this.#tracker = combineTrackers(this.group.rank === 0 ? trackers : [], (error) => {
      console.warn(`A tracker failed: ${error instanceof Error ? error.message : String(error)}`);
    });
    const { seed, shuffleDataset: shuffle } = config;
    this.sampler = datasetLength === null ? null : new Sampler(datasetLength, { seed, shuffle });
    this.optimizer = new AdamW(policy.parameters, config, this.group, gradientOrder(policy.config));
  }

  /** Updates so far. */
  get globalStep(): number {
    return this.#globalStep;
  }

  /** Whether the run was asked to end: on this rank, or on another one and the ranks have agreed on it. */
  get stopping(): boolean {
    return this.#stopAgreed || this.#stopRequested || this.#signal?.aborted === true;
  }

  /** Whether the run has ended before its last update because it was asked to: the same on all ranks. */
  get stopped(): boolean {
    return this.#stopAgreed && this.#globalStep < (this.totalSteps ?? Number.POSITIVE_INFINITY);
  }

  /** What `save` wrote last. */
  get lastCheckpoint(): { step: number; folder: string } | null {
    return this.#lastCheckpoint;
  }

  /** Ends the run after the update in progress. */
  stop(): void {
    this.#stopRequested = true;
  }

  /** Makes the updates that are left. */
  async train(): Promise<TrainingSummary> {
    let report: StepReport | null = null;
    for await (const made of this) report = made;
    return { steps: this.#globalStep, stopped: this.#globalStep < (this.totalSteps ?? 0), report };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StepReport, void, void> {
    if (this.#shape.datasetLength === null) {
      throw new InvalidArgumentError('dataset', 'a data set to run on (without one call step)', undefined);
    }
    let suspended = false;
    try {
      if (this.config.evalOnStart && this.#globalStep === 0) {
        await this.#startTracker();
        this.#tracker.metrics(0, await this.evaluate());
      }
      while (this.#globalStep < this.totalSteps!) {
        // Alone there is nothing to wait for: the update begins in the same turn of the event loop as the call.
        this.#stopAgreed = this.group.worldSize > 1 ? await this.#agreeToStop() : this.stopping;
        if (this.#stopAgreed) break;
        const report = await this.advance((learningRate) => this.update(learningRate));
        suspended = true;
        yield report;
        suspended = false;
      }
    } finally {
      // Who leaves the loop may come back; the end, or an error, is final.
      if (!suspended) await this.#finishTracker();
    }
  }

  /** Scores the held-out rows now. */
  async evaluate(): Promise<Record<string, number>> {
    if (!this.#shape.hasEvaluation) throw new InvalidArgumentError('evalDataset', 'held-out rows', undefined);
    this.onActivity('evaluation');
    const { metrics, completions = [] } = await this.#exclusively(() => this.evaluation());
    if (completions.length > 0) this.#tracker.completions?.(completions);
    return metrics;
  }

  /** Writes a checkpoint, by default `checkpoint-<step>` in the folder of the run, and returns its path; all ranks call it. */
  async save(folder?: string): Promise<string> {
    const { outputDir } = this.config;
    if (folder === undefined && outputDir === null) {
      throw new InvalidArgumentError('folder', 'a path, since there is no outputDir', folder);
    }
    const path = folder ?? `${outputDir}/checkpoint-${this.#globalStep}`;
    const { policy, optimizer, group } = this;
    this.onActivity(`checkpoint ${this.#globalStep}`);
    await this.#exclusively(async () =>
      saveCheckpoint(
        path,
        { policy, optimizer, group },
        {
          trainer: this.#shape.kind,
          step: this.#globalStep,
          skippedUpdates: this.#skippedInRow,
          totalSteps: this.totalSteps,
          numTokens: this.#numTokens,
          datasetLength: this.#shape.datasetLength,
          sampler: this.sampler?.state ?? null,
          extra: this.extraState(),
          config: this.config,
          configHash: await hashConfig(this.config),
        },
      ),
    );
    this.#lastCheckpoint = { step: this.#globalStep, folder: path };
    return path;
  }

  /**
   * Goes on from a checkpoint. The trainer must have been made as the one that wrote it: with the same start policy, data
   * and options. Then the rest of the run gives the same bits as if it had never been interrupted. The number of ranks may
   * be another one; each finds its part of the optimiser state. All ranks call it.
   */
  async resume(folder: string): Promise<void> {
    await this.#exclusively(async () => {
      const { policy, optimizer, group } = this;
      const state = await this.#readCheckpoint(folder);
      const { kind, datasetLength } = this.#shape;
      if (state.trainer !== kind) throw new FileFormatError(folder, `a checkpoint of ${state.trainer}, not of ${kind}`);
      if (state.datasetLength !== datasetLength) {
        const problem = `made with a data set of ${state.datasetLength} rows; this one has ${datasetLength}`;
        throw new FileFormatError(folder, problem);
      }
      await this.restoreExtra(state.extra, folder);
      await togetherOrNot(group, () => loadCheckpoint(folder, { policy, optimizer }, state));
      if (state.sampler) this.sampler?.restore(state.sampler);
      this.#globalStep = state.step;
      this.#numTokens = state.numTokens;
      this.#skippedInRow = state.skippedUpdates;
      await this.weightsChanged();
    });
  }

  /** Ends the tracking and frees what the trainer holds on the device; the policy stays. */
  async close(): Promise<void> {
    await this.#finishTracker();
    this.optimizer.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** One update on the next rows of the data set. */
  protected abstract update(learningRate: number): Promise<Update>;
  protected abstract evaluation(): Promise<EvaluationResult>;
  /** What a checkpoint must keep beside weights, optimiser and place in the data; plain JSON. */
  protected abstract extraState(): Record<string, unknown>;
  /** Throws before anything changes when `extra` does not fit. */
  protected abstract restoreExtra(extra: Record<string, unknown>, folder: string): Promise<void>;
  /** Called when the weights are new, after an update or a resume. */
  protected async weightsChanged(): Promise<void> {}

  /** Runs one update and all that follows from it: logs, evaluation, checkpoint. */
  protected async advance(run: (learningRate: number) => Promise<Update>): Promise<StepReport> {
    const report = await this.#exclusively(async () => {
      await this.#startTracker();
      const started = performance.now();
      const learningRate = learningRateAt(this.#globalStep, this.totalSteps ?? Number.MAX_SAFE_INTEGER, this.config);
      const { completions = [], rewardFailures = [], ...update } = await run(learningRate);
      this.#globalStep++;
      this.#numTokens += update.tokens.all;
      this.#countSkipped(update.metrics);
      await this.weightsChanged();
      const seconds = (performance.now() - started) / 1000;
      const metrics = {
        ...update.metrics,
        num_tokens: this.#numTokens,
        tokens_per_second: update.tokens.completions / seconds,
        step_seconds: seconds,
      };
      const { loss, gradNorm } = update;
      return { step: this.#globalStep, loss, gradNorm, learningRate, metrics, completions, rewardFailures };
    });
    if (this.#isDue(this.config.evalSteps)) Object.assign(report.metrics, await this.evaluate());
    this.#log(report);
    if (this.#isDue(this.config.saveSteps)) {
      await this.#prune(await this.save());
    }
    if (this.config.maxSkippedUpdates !== null && this.#skippedInRow > this.config.maxSkippedUpdates) {
      throw new NonFiniteGradientsError(this.#globalStep, this.#skippedInRow);
    }
    return report;
  }

  /** All ranks end after the same update when one of them was asked to. */
  async #agreeToStop(): Promise<boolean> {
    return (await this.group.allGatherValues(this.stopping)).includes(true);
  }

  #countSkipped(metrics: Readonly<Record<string, number>>): void {
    this.#skippedInRow = metrics.skipped_updates ? this.#skippedInRow + 1 : 0;
  }

  /** Deletes old checkpoints when the new one can be read from beginning to end. */
  async #prune(folder: string): Promise<void> {
    const { outputDir, saveTotalLimit: keep } = this.config;
    if (keep === null) return;
    await togetherOrNot(this.group, async () => {
      if (this.group.rank !== 0) return;
      const { step } = await readCheckpoint(folder);
      await pruneCheckpoints(outputDir!, { step, keep });
    });
  }

  /** The state of a checkpoint whose files rank 0 has checked. */
  async #readCheckpoint(folder: string): Promise<CheckpointState> {
    let state: CheckpointState;
    await togetherOrNot(this.group, async () => {
      state = await (this.group.rank === 0 ? readCheckpoint(folder) : readState(folder));
    });
    return state!;
  }

  /** Every so many updates, and after the last. */
  #isDue(every: number | null): boolean {
    return every !== null && (this.#globalStep % every === 0 || this.#globalStep === this.totalSteps);
  }

  #log({ step, loss, gradNorm, learningRate, metrics, completions }: StepReport): void {
    const entry: Record<string, number> = { loss, grad_norm: gradNorm, learning_rate: learningRate, ...metrics };
    if (this.sampler) entry.epoch = this.sampler.epochs;
    this.#window.push(entry);
    if (completions.length > 0) this.#tracker.completions?.(completions);
    if (step % this.config.loggingSteps === 0 || step === this.totalSteps) this.#flushWindow();
  }

  /** Means over the updates since the last entry; where a run stands is as of the last of them. */
  #flushWindow(): void {
    const last = this.#window.at(-1);
    if (!last) return;
    const standing = ['epoch', 'learning_rate', 'num_tokens'].flatMap((name) =>
      name in last ? [[name, last[name]!]] : [],
    );
    this.#tracker.metrics(this.#globalStep, { ...averageMetrics(this.#window), ...Object.fromEntries(standing) });
    this.#window = [];
  }

  async #exclusively<T>(work: () => Promise<T>): Promise<T> {
    if (this.#busy) throw new GrpoError('GRPO_BUSY', 'The trainer is in the middle of another call; await it first');
    this.#busy = true;
    try {
      return await work();
    } finally {
      this.#busy = false;
    }
  }

  async #startTracker(): Promise<void> {
    if (this.#tracking !== 'before') return;
    this.#tracking = 'running';
    await this.#tracker.start?.({ ...this.config, totalSteps: this.totalSteps });
  }

  async #finishTracker(): Promise<void> {
    if (this.#tracking !== 'running') return;
    this.#tracking = 'finished';
    this.#flushWindow();
    await this.#tracker.finish?.();
  }
}
