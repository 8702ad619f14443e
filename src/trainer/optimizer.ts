import type { ParameterGroup, Parameters } from '../models/parameters.js';
import type { Tensor } from '../tensor.js';
import type { GRPOConfig } from './config.js';

export type OptimizerOptions = Pick<
  GRPOConfig,
  'adamBeta1' | 'adamBeta2' | 'adamEpsilon' | 'weightDecay' | 'maxGradNorm'
>;

/**
 * AdamW over the flat weights of a model, with the gradients scaled down to a global norm. Norms and biases are not
 * decayed. A model in bf16 or f16 gets float32 master weights: an update smaller than a rounding step is not lost.
 */
export class AdamW {
  readonly #parameters: Parameters;
  readonly #options: OptimizerOptions;
  readonly #firstMoment: Tensor;
  readonly #secondMoment: Tensor;
  readonly #masters: Tensor | null;
  #updates = 0;

  /** Enables the gradients of `parameters`. */
  constructor(parameters: Parameters, options: OptimizerOptions) {
    const { device, count, flat } = parameters;
    this.#parameters = parameters;
    this.#options = options;
    parameters.enableGradients();
    this.#firstMoment = device.zeros([count]);
    this.#secondMoment = device.zeros([count]);
    this.#masters = parameters.dtype === 'f32' ? null : device.empty([count]);
    if (this.#masters) device.run('copy', { in: flat, out: this.#masters });
  }

  /** Updates that changed the weights. */
  get updates(): number {
    return this.#updates;
  }

  /** What a checkpoint keeps, by name. float32 [P]. */
  get tensors(): Record<string, Tensor> {
    const moments = { first_moment: this.#firstMoment, second_moment: this.#secondMoment };
    return this.#masters ? { ...moments, master_weights: this.#masters } : moments;
  }

  /** Goes on from a checkpoint: `tensors` have been written, and this many updates were made. */
  restore(updates: number): void {
    this.#updates = updates;
  }

  /**
   * Queues one update from the gradients and then sets these to zero. Give the norm that the returned tensor holds
   * ([1], before scaling; the caller disposes of it) to `applied`.
   */
  update(learningRate: number): Tensor {
    const { device, gradients, groups } = this.#parameters;
    const norm = device.empty([1]);
    device.run('globalNorm', { in: gradients!, norm });
    this.#updateGroup(groups.decay, norm, learningRate, this.#options.weightDecay);
    this.#updateGroup(groups.noDecay, norm, learningRate, 0);
    this.#parameters.zeroGradients();
    return norm;
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
  }

  #updateGroup({ offset, count }: ParameterGroup, norm: Tensor, learningRate: number, weightDecay: number): void {
    if (count === 0) return;
    const { device, flat, gradients } = this.#parameters;
    const part = (tensor: Tensor) => tensor.view([count], offset);
    const tensors = {
      parameters: part(this.#masters ?? flat),
      gradients: part(gradients!),
      firstMoment: part(this.#firstMoment),
      secondMoment: part(this.#secondMoment),
      modelWeights: this.#masters ? part(flat) : null,
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
