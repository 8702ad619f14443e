import { checkDemonstrations, checkPrompts, encodePrompt } from '../data/encode.js';
import type { PromptRecord } from '../data/prompts.js';
import { deriveSeed } from '../data/random.js';
import { FileFormatError, InvalidArgumentError } from '../errors.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { Reward, RewardFunction } from '../rewards/reward.js';
import { asRewards, checkRows, type RewardFailure } from '../rewards/score.js';
import type { GenerateOptions, RolloutEngine } from '../rollout/engine.js';
import { NativeEngine } from '../rollout/native-engine.js';
import type { Device } from '../tensor.js';
import type { TrackedCompletion } from '../tracking/tracker.js';
import { withAdvantages } from './advantages.js';
import { balancedRuns, tokenCosts } from './balance.js';
import { Cloning } from './cloning.js';
import type { GRPOConfig, GRPOOptions } from './config.js';
import {
  type ContrastGroup,
  contrastMetrics,
  contrastPrompts,
  selectCompletions,
  statisticsRewards,
} from './contrast.js';
import { evaluate } from './evaluation.js';
import { type GeneratedPrompt, type ScoredCompletions, trackedCompletions } from './generation.js';
import { averageMetrics, completionMetrics, rewardMetrics, rolloutMetrics, stalenessMetrics } from './metrics.js';
import { parseGRPOConfig } from './parse-config.js';
import { promptsPerUpdate } from './plan.js';
import { drivenByOne, generateOnRanks } from './rank-generation.js';
import { alignRanks, numbersFromJson, numbersToJson, togetherOrNot } from './ranks.js';
import { byGroup, checkRollouts, type Rollout, rolloutFromJson, rolloutToJson } from './rollout.js';
import { updatePolicy } from './step.js';
import { type EvaluationResult, type StepReport, Trainer, type TrainerOptions, type Update } from './trainer.js';

export interface GRPOTrainerOptions extends TrainerOptions, GRPOOptions {
  /** Left out when only `step` is called. */
  dataset?: readonly PromptRecord[];
  rewards?: readonly (Reward | RewardFunction)[];
  /** Held-out prompts. */
  evalDataset?: readonly PromptRecord[];
  /** Expert replies for `sftCoefficient`: rows with `completion`, or with `messages` that end with one of the assistant. */
  demonstrations?: readonly PromptRecord[];
  /** Where completions come from. Default: the policy. */
  engine?: RolloutEngine;
  /** Where the reference policy of beta > 0 is kept and computed; the caller closes it. Default: the policy's device. */
  referenceDevice?: Device;
}

/** What came with a generation, reported by the update that it was made for. */
interface Generation {
  metrics: Record<string, number>;
  completions: TrackedCompletion[];
  rewardFailures: RewardFailure[];
}

/**
 * Group relative policy optimisation: samples a group of completions a prompt, scores them, and raises the probability of
 * those that are better than the rest of their group. `docs/training.md` has options, metrics and formulas.
 */
export class GRPOTrainer extends Trainer<GRPOConfig> {
  readonly #engine: RolloutEngine;
  readonly #reference: CausalLM | null;
  readonly #prompts: readonly PromptRecord[];
  readonly #evalPrompts: readonly PromptRecord[];
  readonly #rewards: readonly Reward[];
  readonly #cloning: Cloning | null;
  /** Micro-batches of a generation, and how many of them, over all iterations, were used. */
  readonly #stepsPerGeneration: number;
  #buffer: Rollout[] = [];
  #used = 0;
  #generations = 0;
  /** Tells one reference from another, so that no run goes on with another one than it began with. */
  readonly #referenceNorm: number | null;

  private constructor(
    config: GRPOConfig,
    options: GRPOTrainerOptions,
    reference: { model: CausalLM; norm: number } | null,
  ) {
    const { dataset, evalDataset, rewards, demonstrations } = options;
    const stepsPerGeneration = config.stepsPerGeneration ?? config.gradientAccumulationSteps;
    super(config, options, {
      kind: 'grpo',
      datasetLength: dataset?.length ?? null,
      rowsPerUpdate: promptsPerUpdate(config, options.processGroup?.worldSize),
      hasEvaluation: evalDataset !== undefined,
    });
    this.#engine = options.engine ?? new NativeEngine(options.policy);
    this.#prompts = dataset ?? [];
    this.#evalPrompts = evalDataset ?? [];
    this.#rewards = rewards ? asRewards(rewards, config.rewardWeights) : [];
    const experts = demonstrations ? checkDemonstrations('demonstrations', demonstrations) : null;
    this.#cloning =
      experts && config.sftCoefficient > 0 ? new Cloning(options.policy, experts, config, this.group) : null;
    this.#stepsPerGeneration = stepsPerGeneration;
    this.#reference = reference?.model ?? null;
    this.#referenceNorm = reference?.norm ?? null;
  }

  /** Throws a `ConfigError` that lists every option that cannot be used. */
  static async create(options: GRPOTrainerOptions): Promise<GRPOTrainer> {
    const { policy, dataset, rewards, evalDataset, demonstrations, engine, referenceDevice, ...others } = options;
    const { tracker, signal, processGroup, ...rest } = others;
    const generates = dataset !== undefined;
    const config = parseGRPOConfig(rest, 'GRPOTrainer', { generates, worldSize: processGroup?.worldSize });
    if (dataset) checkPrompts('dataset', dataset);
    if (evalDataset) checkPrompts('evalDataset', evalDataset);
    if ((dataset || evalDataset) && !rewards) throw new InvalidArgumentError('rewards', 'at least one reward', rewards);
    if (rewards) {
      const checked = asRewards(rewards, config.rewardWeights);
      checkRows('dataset', dataset ?? [], checked);
      checkRows('evalDataset', evalDataset ?? [], checked);
    } else if (config.rewardWeights) throw new InvalidArgumentError('rewardWeights', 'rewards to weigh', rewards);
    if (config.sftCoefficient > 0 && !demonstrations) {
      throw new InvalidArgumentError('demonstrations', 'expert replies, which sftCoefficient needs,', demonstrations);
    }
    if (demonstrations) checkDemonstrations('demonstrations', demonstrations);
    checkContrast(config, rewards ? asRewards(rewards, config.rewardWeights) : []);
    if (engine?.lookahead && !config.rolloutCorrection) {
      throw new InvalidArgumentError('rolloutCorrection', 'a mode, since the engine samples ahead of updates', null);
    }
    if (processGroup) await alignRanks(processGroup, policy, config, dataset?.length);
    if (referenceDevice && config.beta === 0) {
      throw new InvalidArgumentError(
        'referenceDevice',
        'none with beta 0, which needs no reference',
        referenceDevice.name,
      );
    }
    const reference = config.beta > 0 ? await referenceOf(policy, referenceDevice ?? policy.device) : null;
    const parts = { policy, dataset, rewards, evalDataset, demonstrations, engine, tracker, signal, processGroup };
    try {
      return new GRPOTrainer(config, parts, reference);
    } catch (error) {
      reference?.model.dispose();
      throw error;
    }
  }

  /**
   * One update on completions that were sampled elsewhere, cut into micro-batches of `perDeviceTrainBatchSize`.
   * Advantages are computed from the rewards of each group unless the rollouts bring them. With several ranks each gives
   * those that it has, or none; those of a group may come from any rank.
   */
  async step(own: readonly Rollout[]): Promise<StepReport> {
    const rollouts = await this.#ofAllRanks(own);
    return this.advance(async (learningRate) => {
      const advantages = await withAdvantages(this.policy.device, rollouts, this.config);
      const ready = this.#referenceIsElsewhere ? await this.#withReference(advantages) : advantages;
      const size = this.#microBatchSize;
      const batches = Array.from({ length: Math.ceil(ready.length / size) }, (_, i) =>
        ready.slice(i * size, (i + 1) * size),
      );
      const { metrics, ...update } = await this.#updateOn(batches, [], learningRate);
      return { ...update, metrics: { ...metricsOf(rollouts), ...metrics } };
    });
  }

  override async close(): Promise<void> {
    await super.close();
    this.#reference?.dispose();
  }

  protected override async update(learningRate: number): Promise<Update> {
    const batches: Rollout[][] = [];
    const generations: Generation[] = [];
    while (batches.length < this.config.gradientAccumulationSteps) {
      if (this.#buffer.length === 0) generations.push(await this.#generate());
      batches.push(this.#nextMicroBatch());
    }
    return this.#updateOn(batches, generations, learningRate);
  }

  protected override async evaluation(): Promise<EvaluationResult> {
    const prompts = this.#evalPrompts.map((record) => this.#encode(record));
    return evaluate(this.#engine, prompts, this.#rewards, this.config, this.globalStep, this.group);
  }

  protected override async weightsChanged(): Promise<void> {
    if (this.group.rank === 0) await this.#engine.weightsChanged?.(this.globalStep);
  }

  protected override extraState(): Record<string, unknown> {
    return {
      generations: this.#generations,
      used: this.#used,
      microBatchSize: this.#microBatchSize,
      rollouts: this.#buffer.map(rolloutToJson),
      referenceNorm: this.#referenceNorm,
      ...(this.#cloning ? { cloning: this.#cloning.state } : {}),
    };
  }

  protected override async restoreExtra(extra: Record<string, unknown>, folder: string): Promise<void> {
    const { generations, used, rollouts, referenceNorm } = extra;
    if (!Number.isSafeInteger(generations) || !Number.isSafeInteger(used) || !Array.isArray(rollouts)) {
      throw new FileFormatError(folder, 'not the state of a GRPO trainer');
    }
    if (referenceNorm !== this.#referenceNorm) {
      const problem = `made with another reference policy (norm of its weights ${referenceNorm}, here ${this.#referenceNorm})`;
      throw new FileFormatError(folder, `${problem}; make the trainer from the model that the run started from`);
    }
    this.#cloning?.restore(extra.cloning, folder);
    this.#generations = generations as number;
    this.#used = this.#usedOf(used as number, rollouts.length, extra.microBatchSize, folder);
    this.#buffer = rollouts.map((rollout) => rolloutFromJson(rollout));
  }

  async #updateOn(batches: Rollout[][], generations: Generation[], learningRate: number): Promise<Update> {
    const { policy, optimizer, group, config } = this;
    this.onActivity(`update ${this.globalStep + 1}`);
    const reference = this.#referenceIsElsewhere ? null : this.#reference;
    const parts = { policy, reference, optimizer, group, config, cloning: this.#cloning };
    const { loss, gradNorm, metrics, cloneTokens } = await updatePolicy(parts, batches, learningRate);
    const rollouts = batches.flat();
    const completions = rollouts.reduce((sum, rollout) => sum + rollout.completionIds.length, 0);
    const prompts = rollouts.reduce((sum, rollout) => sum + rollout.promptIds.length, 0);
    return {
      loss,
      gradNorm,
      metrics: { ...averageMetrics(generations.map((generation) => generation.metrics)), ...metrics },
      completions: generations.flatMap((generation) => generation.completions),
      rewardFailures: generations.flatMap((generation) => generation.rewardFailures),
      tokens: { all: prompts + completions + cloneTokens.all, completions: completions + cloneTokens.completions },
    };
  }

  /** Fills the buffer with the completions of the next prompts. */
  async #generate(): Promise<Generation> {
    const { config, policy } = this;
    const n = config.numGenerations;
    const question = this.#question(this.sampler!.take(this.#promptsPerGeneration), this.#generations++);
    const { asked, contrast } = question;
    this.onActivity(`rollout ${this.#generations}`);
    const generated = await generateOnRanks(this.#engine, { ...question, groupSize: n }, this.#rewards, this.group);
    this.#prefetch();
    const { completions, scored, failures } = generated;
    const needsRolloutLogProbs = config.rolloutCorrection !== null || config.offPolicyMaskThreshold !== null;
    const rewards = contrast ? statisticsRewards(scored.totals, contrast.groups, config.contrast!) : scored.totals;
    const rollouts = completions.map(({ completionIds, logProbs, stopReason }, i) => ({
      group: Math.floor(i / n),
      promptIds: asked[i]!.ids,
      completionIds,
      reward: rewards[i]!,
      truncated: stopReason === 'length',
      ...(needsRolloutLogProbs ? { rolloutLogProbs: logProbs } : {}),
    }));
    let ready = await withAdvantages(policy.device, rollouts, config);
    let metrics = {
      ...rolloutMetrics({ ...scored, totals: rewards }, completions, n),
      ...stalenessMetrics(completions, this.#engine.version),
    };
    if (contrast) {
      const selection = this.#select(ready, contrast.groups, generated);
      ready = selection.rollouts;
      metrics = { ...metrics, ...selection.metrics };
    }
    this.#buffer = await this.#withLogProbs(ready);
    this.#used = 0;
    const advantages = ready.map((rollout) => rollout.advantage!);
    return {
      metrics,
      completions: trackedCompletions(generated, advantages, { step: this.globalStep + 1, split: 'train' }),
      rewardFailures: failures,
    };
  }

  get #promptsPerGeneration(): number {
    return (this.#microBatchSize * this.#stepsPerGeneration) / this.config.numGenerations;
  }

  /** Sequences of a micro-batch, over all ranks. */
  get #microBatchSize(): number {
    return this.config.perDeviceTrainBatchSize * this.group.worldSize;
  }

  /** What the engine is asked for in a generation: the prompts of some rows, and how to continue them. */
  #question(rows: readonly number[], generation: number) {
    const { config } = this;
    const n = config.numGenerations;
    const prompts = rows.map((row) => this.#encode(this.#prompts[row]!));
    const contrast = config.contrast
      ? contrastPrompts(prompts, n, config.contrast, (record, change) => this.#encode(record, change))
      : null;
    // With contrast each completion has a prompt of its own in the call, so that all are decoded together.
    const asked = contrast?.expanded ?? prompts.flatMap((prompt) => new Array<GeneratedPrompt>(n).fill(prompt));
    const options: GenerateOptions = {
      maxNewTokens: config.maxCompletionLength,
      n: contrast ? 1 : n,
      temperature: config.temperature,
      topK: config.topK,
      topP: config.topP,
      minP: config.minP,
      stop: config.stop,
      seed: deriveSeed(config.seed, generation),
    };
    return { prompts: contrast ? asked : prompts, asked, contrast, options };
  }

  /** Lets an engine that samples ahead begin with what the next generations will ask for. */
  #prefetch(): void {
    const lookahead = drivenByOne(this.#engine) && this.group.rank > 0 ? 0 : (this.#engine.lookahead ?? 0);
    const uses = this.#stepsPerGeneration * this.config.numIterations;
    const all = Math.ceil(
      ((this.totalSteps ?? Number.POSITIVE_INFINITY) * this.config.gradientAccumulationSteps) / uses,
    );
    const ahead = Math.min(lookahead, all - this.#generations);
    const size = this.#promptsPerGeneration;
    const rows = ahead > 0 ? this.sampler!.peek(ahead * size) : [];
    for (let i = 0; i < ahead; i++) {
      const { prompts, options } = this.#question(rows.slice(i * size, (i + 1) * size), this.#generations + i);
      const promptIds = prompts.map((prompt) => prompt.ids);
      this.#engine.prefetch?.(promptIds, options);
    }
  }

  /** Takes out of the update what contrast rejects. The released code left its KL and its place in the mean. */
  #select(
    rollouts: Rollout[],
    groups: readonly ContrastGroup[],
    { samples, scored }: ScoredCompletions,
  ): { rollouts: Rollout[]; metrics: Record<string, number> } {
    const config = this.config.contrast!;
    const records = samples.map((sample) => sample.record);
    const verdicts = selectCompletions(groups, scored, records, config);
    const leaveOut = (rollout: Rollout): Rollout =>
      config.released
        ? { ...rollout, advantage: 0 }
        : { ...rollout, advantage: 0, mask: new Int32Array(rollout.completionIds.length) };
    return {
      rollouts: rollouts.map((rollout, i) => (verdicts[i] === null ? rollout : leaveOut(rollout))),
      metrics: contrastMetrics(groups, verdicts, scored, config),
    };
  }

  /**
   * Old log-probs where a completion may be used after the weights have changed (else the ratio is 1), and those of the
   * reference where it is used more than once (else the update computes them).
   */
  async #withLogProbs(rollouts: Rollout[]): Promise<Rollout[]> {
    const { numIterations, gradientAccumulationSteps } = this.config;
    const uses = this.#stepsPerGeneration * numIterations;
    const old = gradientAccumulationSteps % uses === 0 ? null : await this.#logProbs(this.policy, rollouts);
    const withOld = old ? rollouts.map((rollout, i) => ({ ...rollout, oldLogProbs: old[i]! })) : rollouts;
    return numIterations > 1 || this.#referenceIsElsewhere ? this.#withReference(withOld) : withOld;
  }

  /** The log-probs of the reference, where there is one and the rollouts do not bring them. */
  async #withReference(rollouts: Rollout[]): Promise<Rollout[]> {
    if (!this.#reference || rollouts.every(({ refLogProbs }) => refLogProbs)) return rollouts;
    const reference = await this.#logProbs(this.#reference, rollouts);
    return rollouts.map((rollout, i) => ({ ...rollout, refLogProbs: reference[i]! }));
  }

  /** Then the update cannot compute its log-probs on the way. */
  get #referenceIsElsewhere(): boolean {
    return this.#reference !== null && this.#reference.device !== this.policy.device;
  }

  async #logProbs(model: CausalLM, rollouts: readonly Rollout[]): Promise<Float32Array[]> {
    const { perDeviceTrainBatchSize: size, temperature, logitsWorkspaceBytes: workspaceBytes } = this.config;
    const { rank, worldSize } = this.group;
    const offsets = balancedRuns(tokenCosts(rollouts), worldSize);
    const own: Float32Array[] = [];
    const parts = await togetherOrNot(this.group, async () => {
      for (let begin = offsets[rank]!; begin < offsets[rank + 1]!; begin += size) {
        const batch = rollouts.slice(begin, Math.min(begin + size, offsets[rank + 1]!));
        own.push(...(await model.logProbs(batch, { temperature, workspaceBytes })));
      }
      return worldSize === 1 ? [] : own.map(numbersToJson);
    });
    return worldSize === 1 ? own : parts.flat().map((values) => Float32Array.from(numbersFromJson(values)));
  }

  /** The next micro-batch of the buffer, which runs `numIterations` times from its first to its last. */
  #nextMicroBatch(): Rollout[] {
    const size = this.#microBatchSize;
    const begin = (this.#used % this.#stepsPerGeneration) * size;
    const batch = this.#buffer.slice(begin, begin + size);
    if (++this.#used === this.#stepsPerGeneration * this.config.numIterations) {
      this.#buffer = [];
      this.#used = 0;
    }
    return batch;
  }

  /**
   * Micro-batches that were used of the completions in a checkpoint, in those of this run, whose ranks may be more or
   * fewer than those of the run that wrote it.
   */
  #usedOf(used: number, waiting: number, writtenSize: unknown, folder: string): number {
    const size = this.#microBatchSize;
    if (waiting === 0 || writtenSize === undefined || writtenSize === size) return used;
    const place = used * (writtenSize as number);
    if (waiting !== size * this.#stepsPerGeneration || place % size !== 0) {
      const problem = `made in the middle of a generation of ${waiting} completions, ${writtenSize} a micro-batch over all ranks`;
      const expected = `${size * this.#stepsPerGeneration} completions, ${size} a micro-batch`;
      throw new FileFormatError(folder, `${problem}; here a generation has ${expected}`);
    }
    return place / size;
  }

  /** The rollouts that the ranks were given, in rank order. */
  async #ofAllRanks(own: readonly Rollout[]): Promise<readonly Rollout[]> {
    if (this.group.worldSize === 1) {
      checkRollouts(own);
      return own;
    }
    const given = await togetherOrNot(this.group, async () => {
      if (!Array.isArray(own) || own.length > 0) checkRollouts(own);
      return own.map(rolloutToJson);
    });
    const rollouts = given.flat().map(rolloutFromJson);
    checkRollouts(rollouts);
    return rollouts;
  }

  #encode(record: PromptRecord, change?: (text: string) => string): GeneratedPrompt {
    return { record, ...encodePrompt(record, this.policy.tokenizer, this.config.maxPromptLength, change) };
  }
}

/** The rewards that contrast compares by must be there. */
function checkContrast({ contrast }: GRPOConfig, rewards: readonly Reward[]): void {
  for (const key of ['score', 'met'] as const) {
    const name = contrast?.[key] ?? null;
    if (name !== null && !rewards.some((reward) => reward.name === name)) {
      const expected = `the name of a reward (${rewards.map((reward) => reward.name).join(', ') || 'there are none'})`;
      throw new InvalidArgumentError(`contrast.${key}`, expected, name);
    }
  }
}

/** Of completions that the caller sampled; those of rewards when they bring rewards. */
function metricsOf(rollouts: readonly Rollout[]): Record<string, number> {
  const { sorted, offsets } = byGroup(rollouts);
  const lengths = sorted.map((rollout) => rollout.completionIds.length);
  const truncated = sorted.map((rollout) => rollout.truncated === true);
  const rewards = sorted.every((rollout) => rollout.reward !== undefined)
    ? rewardMetrics(
        Float64Array.from(sorted, (rollout) => rollout.reward!),
        offsets,
      )
    : {};
  return { ...rewards, ...completionMetrics(lengths, truncated) };
}

/** A frozen copy of the policy as it is now, with the norm of its weights. */
async function referenceOf(policy: CausalLM, device: Device): Promise<{ model: CausalLM; norm: number }> {
  const { device: own, parameters } = policy;
  const weights = own.empty([parameters.count]);
  const norm = own.empty([1]);
  const model = device === own ? policy.clone({ frozen: true }) : await policy.cloneTo(device);
  try {
    own.run('copy', { in: parameters.flat, out: weights });
    own.run('globalNorm', { in: weights, norm });
    return { model, norm: (await norm.read())[0]! };
  } catch (error) {
    model.dispose();
    throw error;
  } finally {
    weights.dispose();
    norm.dispose();
  }
}
