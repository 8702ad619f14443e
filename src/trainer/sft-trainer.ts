import { checkDemonstrations, encodeDemonstration } from '../data/encode.js';
import type { PromptRecord } from '../data/prompts.js';
import type { DemonstrationRecord } from '../data/records.js';
import type { TokenSequence } from '../models/token-scores.js';
import { Scope } from '../tensor.js';
import { microBatches, tokenShare } from './balance.js';
import type { SFTConfig, SFTOptions } from './config.js';
import { backwardCrossEntropy } from './cross-entropy.js';
import { parseSFTConfig } from './parse-config.js';
import { alignRanks, evenShare, numbersFromJson, numbersToJson, togetherOrNot } from './ranks.js';
import { type EvaluationResult, Trainer, type TrainerOptions, type Update } from './trainer.js';

export interface SFTTrainerOptions extends TrainerOptions, SFTOptions {
  /** Rows with `completion`, or with `messages` that end with one of the assistant. */
  dataset: readonly PromptRecord[];
  /** Held-out rows of the same kind. */
  evalDataset?: readonly PromptRecord[];
}

/** Behaviour cloning: raises the log-prob of demonstrated completions. Prompts carry no loss. */
export class SFTTrainer extends Trainer<SFTConfig> {
  readonly #rows: readonly DemonstrationRecord[];
  readonly #evalRows: readonly DemonstrationRecord[];

  private constructor(
    config: SFTConfig,
    options: TrainerOptions,
    rows: readonly DemonstrationRecord[],
    evalRows: readonly DemonstrationRecord[],
  ) {
    super(config, options, {
      kind: 'sft',
      datasetLength: rows.length,
      rowsPerUpdate:
        config.perDeviceTrainBatchSize * config.gradientAccumulationSteps * (options.processGroup?.worldSize ?? 1),
      hasEvaluation: evalRows.length > 0,
    });
    this.#rows = rows;
    this.#evalRows = evalRows;
  }

  /** Throws a `ConfigError` that lists every option that cannot be used. */
  static async create(options: SFTTrainerOptions): Promise<SFTTrainer> {
    const { policy, dataset, evalDataset, tracker, signal, processGroup, ...rest } = options;
    const config = parseSFTConfig(rest, 'SFTTrainer');
    const rows = checkDemonstrations('dataset', dataset);
    const evalRows = evalDataset ? checkDemonstrations('evalDataset', evalDataset) : [];
    if (processGroup) await alignRanks(processGroup, policy, config, rows.length);
    return new SFTTrainer(config, { policy, tracker, signal, processGroup }, rows, evalRows);
  }

  protected override async update(learningRate: number): Promise<Update> {
    const { perDeviceTrainBatchSize: size, gradientAccumulationSteps } = this.config;
    this.onActivity(`update ${this.globalStep + 1}`);
    const rows = this.sampler!.take(size * gradientAccumulationSteps * this.group.worldSize);
    const sequences = rows.map((row) => this.#encode(this.#rows[row]!));
    const completions = countTokens(sequences);
    const scope = new Scope();
    try {
      const cut = (rank: number) => microBatches(tokenShare(sequences, rank, this.group.worldSize), size);
      const sums = this.optimizer.backwardEach(
        cut(this.group.rank),
        (rank) => cut(rank).length,
        (batch, onGradients) => {
          const weights = batch.map(() => 1 / completions);
          return backwardCrossEntropy(this.policy, batch, weights, this.config, scope, onGradients);
        },
      );
      const norm = scope.track(this.optimizer.update(learningRate));
      let gradNorm = Number.NaN;
      const values = await togetherOrNot(this.group, async () => {
        const [normValue, logProbs, entropies] = await Promise.all([
          norm.read(),
          Promise.all(sums.map((s) => s.logProbs.read())),
          Promise.all(sums.map((s) => s.entropy.read())),
        ]);
        gradNorm = normValue[0]!;
        return [logProbs, entropies].map((parts) => numbersToJson(parts.map(sumOf)));
      });
      const skipped: Record<string, number> = this.optimizer.applied(gradNorm) ? {} : { skipped_updates: 1 };
      const total = (kind: 0 | 1) => sumOf(values.flatMap((ofRank) => numbersFromJson(ofRank[kind]!)));
      const prompts = sequences.reduce((sum, { promptIds }) => sum + promptIds.length, 0);
      return {
        loss: -total(0) / completions,
        gradNorm,
        metrics: { entropy: total(1) / completions, ...skipped },
        tokens: { all: prompts + completions, completions },
      };
    } finally {
      scope.dispose();
    }
  }

  protected override async evaluation(): Promise<EvaluationResult> {
    const { logitsWorkspaceBytes: workspaceBytes, perDeviceEvalBatchSize: size } = this.config;
    const { begin, end } = evenShare(this.#evalRows.length, this.group.rank, this.group.worldSize);
    const parts = await togetherOrNot(this.group, async () => {
      let logProb = 0;
      let tokens = 0;
      for (const rows of microBatches(this.#evalRows.slice(begin, end), size)) {
        const sequences = rows.map((row) => this.#encode(row));
        for (const logProbs of await this.policy.logProbs(sequences, { workspaceBytes })) logProb += sumOf(logProbs);
        tokens += countTokens(sequences);
      }
      return { logProb: numbersToJson([logProb])[0]!, tokens };
    });
    const tokens = sumOf(parts.map((part) => part.tokens));
    return { metrics: { 'eval/loss': -sumOf(parts.map((part) => Number(part.logProb))) / tokens } };
  }

  protected override extraState(): Record<string, unknown> {
    return {};
  }

  protected override async restoreExtra(): Promise<void> {}

  #encode(row: DemonstrationRecord): { promptIds: Int32Array; completionIds: Int32Array } {
    return encodeDemonstration(row, this.policy.tokenizer, this.config.maxLength);
  }
}

function countTokens(sequences: readonly TokenSequence[]): number {
  return sequences.reduce((sum, { completionIds }) => sum + completionIds.length, 0);
}

function sumOf(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  return sum;
}
