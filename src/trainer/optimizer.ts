import { GradientBuckets } from '../distributed/gradient-buckets.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { ShardedGradients } from '../distributed/sharded-gradients.js';
import { singleProcessGroup } from '../distributed/single-process-group.js';
import type { ParameterGroup, Parameters } from '../models/parameters.js';
import type { Tensor } from '../tensor.js';
import type { GRPOConfig } from './config.js';

export type OptimizerOptions = Pick<
  GRPOConfig,
  'adamBeta1' | 'adamBeta2' | 'adamEpsilon' | 'weightDecay' | 'maxGradNorm'
> &
  Partial<Pick<GRPOConfig, 'zeroStage'>>;

/**
 * AdamW over the flat weights of a model, with the gradients scaled down to a global norm. Norms and biases are not
 * decayed. A model in bf16 or f16 gets float32 master weights: an update smaller than a rounding step is not lost.
 *
 * With several ranks the gradients are summed over them. `zeroStage` 0 keeps the whole state on every rank; 1 keeps a part a
 * rank, which updates that part of the weights and gives it to the others; 2 also keeps only that part of the gradients.
 * All give the same bits where the collectives do, but for 2 with several micro-batches, which it adds up in another order.
 */
export class AdamW {
  readonly #parameters: Parameters;
  readonly #options: OptimizerOptions;
  readonly #group: ProcessGroup;
  readonly #stage: number;
  readonly #firstMoment: Tensor;
  readonly #secondMoment: Tensor;
  readonly #masters: Tensor | null;
  readonly #buckets: GradientBuckets | null;
  readonly #sharded: ShardedGradients | null;
  /** The weights that this rank keeps the state of. */
  readonly shard: ParameterGroup;
  #updates = 0;
  /** Micro-batches since the last update whose gradients have been exchanged. */
  #exchanges = 0;

  /** Enables the gradients of `parameters`. */
  constructor(
    parameters: Parameters,
    options: OptimizerOptions,
    group: ProcessGroup = singleProcessGroup(parameters.device),
    /** How the names of the parameters begin, in the order in which backward completes their gradients. */
    gradientOrder: readonly string[] = [''],
  ) {
    const { device, count, flat } = parameters;
    this.#parameters = parameters;
    this.#options = options;
    this.#group = group;
    this.#stage = group.worldSize === 1 ? 0 : (options.zeroStage ?? 0);
    this.shard = this.#stage === 0 ? { offset: 0, count } : this.shardOf(group.rank, group.worldSize);
    this.#sharded = this.#stage === 2 ? new ShardedGradients(group, parameters, gradientOrder) : null;
    parameters.enableGradients(this.#sharded);
    this.#buckets =
      group.worldSize > 1 && this.#stage < 2 ? new GradientBuckets(group, parameters, gradientOrder) : null;
    const shape = [this.shard.count];
    this.#firstMoment = device.zeros(shape);
    this.#secondMoment = device.zeros(shape);
    this.#masters = parameters.dtype === 'f32' ? null : device.empty(shape);
    if (this.#masters && this.shard.count > 0) {
      const own = flat.view(shape, this.shard.offset);
      device.run('copy', { in: own, out: this.#masters });
      own.dispose();
    }
  }

  /** Elements of each tensor of the state, over all ranks. */
  get count(): number {
    return this.#parameters.count;
  }

  /** Updates that changed the weights. */
  get updates(): number {
    return this.#updates;
  }

  /** What a checkpoint keeps, by name: of the weights of `shard`, in float32. */
  get tensors(): Record<string, Tensor> {
    const moments = { first_moment: this.#firstMoment, second_moment: this.#secondMoment };
    return this.#masters ? { ...moments, master_weights: this.#masters } : moments;
  }

  /** The part of the state that a rank writes to a checkpoint. */
  shardOf(rank: number, worldSize: number): ParameterGroup {
    const { offset, count } = this.#parameters.shard(rank, worldSize);
    return { offset, count };
  }

  /** Goes on from a checkpoint: `tensors` have been written, and this many updates were made. */
  restore(updates: number): void {
    this.#updates = updates;
  }

  /**
   * Queues one update from the gradients of all ranks and then sets these to zero. Give the norm that the returned tensor
   * holds ([1], before scaling; the caller disposes of it) to `applied`.
   */
  update(learningRate: number): Tensor {
    const { groups } = this.#parameters;
    this.#buckets?.finish();
    if (this.#exchanges === 0) this.#sharded?.finish();
    this.#exchanges = 0;
    const norm = this.#globalNorm();
    this.#updateGroup(groups.decay, norm, learningRate, this.#options.weightDecay);
    this.#updateGroup(groups.noDecay, norm, learningRate, 0);
    if (this.#stage > 0) this.#gatherWeights();
    if (this.#sharded) this.#parameters.device.run('fill', { out: this.#sharded.sums, value: 0 });
    else this.#parameters.zeroGradients();
    return norm;
  }

  /**
   * Runs backward on each of this rank's micro-batches and gives what `backward` returns. It passes `onGradients` on to the
   * scores, so that the ranks add up the gradients of one layer while those of the next are computed. `countOf` tells how
   * many micro-batches a rank has: with `zeroStage` 2 all ranks exchange gradients after each, or with a rank that has one.
   * `last`: no other ones follow before `update`.
   */
  backwardEach<T, R>(
    own: readonly T[],
    countOf: (rank: number) => number,
    backward: (microBatch: T, onGradients: ((prefix: string) => void) | null) => R,
    last = true,
  ): R[] {
    const sharded = this.#sharded;
    const results = own.map((microBatch, i) => {
      const listener = sharded ?? (last && i === own.length - 1 ? this.#buckets : null);
      const result = backward(microBatch, listener && ((prefix) => listener.complete(prefix)));
      sharded?.finish();
      return result;
    });
    if (sharded) {
      const most = Math.max(...Array.from({ length: this.#group.worldSize }, (_, rank) => countOf(rank)));
      for (let i = own.length; i < most; i++) sharded.finish();
      this.#exchanges += most;
    }
    return results;
  }

  /** Counts the update, unless its gradients were not finite and it therefore left everything as it was. */
  applied(norm: number): boolean {
    if (!Number.isFinite(norm)) return false;
    this.#updates++;
    return true;
  }

  dispose(): void {
    this.#firstMoment.dispose();
    this.#secondMoment.dispose();
    this.#masters?.dispose();
    if (this.#sharded) {
      this.#parameters.freeze();
      this.#sharded.dispose();
    }
  }

  /** The norm of the norms of the ranks' parts, whoever computes them: the same bits with every stage. */
  #globalNorm(): Tensor {
    const { device, gradients } = this.#parameters;
    const norm = device.empty([1]);
    const { rank, worldSize } = this.#group;
    if (worldSize === 1) {
      device.run('globalNorm', { in: gradients!, norm });
      return norm;
    }
    const norms = device.zeros([worldSize]);
    for (let r = 0; r < worldSize; r++) {
      const { offset, count } = this.shardOf(r, worldSize);
      if (count === 0 || (this.#stage > 0 && r !== rank)) continue;
      const [part, out] = [this.#gradientsAt(offset, count), norms.view([1], r)];
      device.run('globalNorm', { in: part, norm: out });
      part.dispose();
      out.dispose();
    }
    if (this.#stage > 0) {
      const own = norms.view([1], rank);
      this.#group.allGather(own, norms);
      own.dispose();
    }
    device.run('globalNorm', { in: norms, norm });
    norms.dispose();
    return norm;
  }

  /** Of some weights of the shard. */
  #gradientsAt(offset: number, count: number): Tensor {
    const { gradients } = this.#parameters;
    return this.#sharded
      ? this.#sharded.sums.view([count], offset - this.shard.offset)
      : gradients!.view([count], offset);
  }

  #gatherWeights(): void {
    const { flat } = this.#parameters;
    const { rank, worldSize } = this.#group;
    const { length } = this.#parameters.shard(rank, worldSize);
    const [own, whole] = [flat.view([length], rank * length), flat.view([length * worldSize])];
    this.#group.allGather(own, whole);
    own.dispose();
    whole.dispose();
  }

  /** Updates those weights of a group that this rank has the state of. */
  #updateGroup(group: ParameterGroup, norm: Tensor, learningRate: number, weightDecay: number): void {
    const begin = Math.max(group.offset, this.shard.offset);
    const count = Math.min(group.offset + group.count, this.shard.offset + this.shard.count) - begin;
    if (count <= 0) return;
    const { device, flat } = this.#parameters;
    const ofModel = (tensor: Tensor) => tensor.view([count], begin);
    const ofState = (tensor: Tensor) => tensor.view([count], begin - this.shard.offset);
    const tensors = {
      parameters: this.#masters ? ofState(this.#masters) : ofModel(flat),
      gradients: this.#gradientsAt(begin, count),
      firstMoment: ofState(this.#firstMoment),
      secondMoment: ofState(this.#secondMoment),
      modelWeights: this.#masters ? ofModel(flat) : null,
    };
    device.run('adamw', {
      ...tensors,
      norm,
      learningRate,
      beta1: this.#options.adamBeta1,
      beta2: this.#options.adamBeta2,
      epsilon: this.#options.adamEpsilon,
      weightDecay,
      step: this.#updates + 1,
      maxNorm: this.#options.maxGradNorm,
    });
    for (const tensor of Object.values(tensors)) tensor?.dispose();
  }
}
