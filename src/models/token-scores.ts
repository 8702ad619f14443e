import { Tape, type Variable } from '../autograd.js';
import { GrpoError, InvalidArgumentError } from '../errors.js';
import { type Device, Scope, type Tensor } from '../tensor.js';
import type { Decoder } from './decoder.js';

/** A prompt and what was, or might have been, answered. */
export interface TokenSequence {
  promptIds: ArrayLike<number>;
  completionIds: ArrayLike<number>;
}

export interface ScoreOptions {
  /** Divides the logits. Default 1. */
  temperature?: number;
  /** Remember what `backward` needs. Default false. */
  gradients?: boolean;
  /** Keep only each layer's input for backward and compute the layer again there. Default false. */
  gradientCheckpointing?: boolean;
  /** Also give the entropy of each prediction. Default false. */
  entropy?: boolean;
  /** Most bytes of logits at a time. Default 256 MiB. */
  workspaceBytes?: number;
  /**
   * Called during `backward` whenever the gradients of some parameters are complete, with how their names begin; in the
   * order of `gradientOrder`, with those of the head (`lm_head.`, unless it is the embedding) first. For exchanging them
   * with other processes while backward goes on.
   */
  onGradients?: ((prefix: string) => void) | null;
}

/**
 * A packed batch. Completions of one prompt share it: its tokens but the last are a sequence of their own, which each
 * completion continues with the prompt's last token and all its own tokens but the last, which predicts nothing.
 */
interface PackedBatch {
  ids: Int32Array;
  positions: Int32Array;
  /** [S+1] rows of the sequences: shared prompts, and what continues them. */
  rowOffsets: Int32Array;
  /** [S] the shared prompt that a sequence continues, or -1. */
  parents: Int32Array;
  maxLength: number;
  /** [N] rows that predict a completion token, and the tokens they predict. */
  predicting: Int32Array;
  targets: Int32Array;
  /** [B+1] completion tokens of each sequence. */
  sequenceOffsets: Int32Array;
}

/**
 * The log-probs that a policy gives to the tokens of completions: N tokens of B sequences, one after another.
 * With `gradients`, `backward` adds to the gradients of the policy's parameters. Dispose of it when done.
 */
export class TokenScores {
  /** [N] f32. */
  readonly logProbs: Tensor;
  /** [N] f32, in nats; null unless asked for. */
  readonly entropy: Tensor | null;
  /** [N] f32: log of the softmax's denominator, after the temperature. */
  readonly logSumExp: Tensor;
  /** [B+1]: sequence b has the tokens sequenceOffsets[b] up to sequenceOffsets[b+1]. */
  readonly sequenceOffsets: Int32Array;

  readonly #device: Device;
  readonly #decoder: Decoder;
  readonly #scope = new Scope();
  readonly #tape: Tape;
  readonly #options: Required<ScoreOptions>;
  readonly #targets: Tensor;
  /** Input of the head; null when no token is scored. */
  #hidden: Variable | null = null;

  /** @internal Use `policy.score`. */
  constructor(device: Device, decoder: Decoder, sequences: readonly TokenSequence[], options: ScoreOptions) {
    this.#device = device;
    this.#decoder = decoder;
    this.#options = checkOptions(options);
    const batch = pack(sequences, decoder.config);
    const { gradients, gradientCheckpointing, onGradients: onMilestone } = this.#options;
    const count = batch.targets.length;
    this.sequenceOffsets = batch.sequenceOffsets;
    const { activations: dtype } = decoder;
    this.#tape = new Tape(device, { record: gradients, checkpoint: gradientCheckpointing, dtype, onMilestone });
    try {
      this.logProbs = this.#scope.track(device.empty([count]));
      this.logSumExp = this.#scope.track(device.empty([count]));
      this.entropy = this.#options.entropy ? this.#scope.track(device.empty([count])) : null;
      this.#targets = this.#indices(batch.targets);
      if (count > 0) this.#forward(batch);
    } catch (error) {
      this.dispose();
      throw error;
    }
    if (!gradients) this.#tape.dispose();
  }

  /**
   * Adds the gradients of sum(gradLogProbs * logProbs) + sum(gradEntropy * entropy) to those of the parameters. Once a
   * forward pass: the activations are freed on the way.
   */
  backward(gradLogProbs: Tensor, gradEntropy: Tensor | null = null): void {
    if (!this.#options.gradients) throw new GrpoError('GRPO_NO_GRADIENTS', 'backward: scored without `gradients`');
    if (gradEntropy && !this.entropy) throw new GrpoError('GRPO_NO_GRADIENTS', 'backward: scored without `entropy`');
    if (this.logProbs.size === 0) return;
    const hidden = this.#hidden;
    if (!hidden) throw new GrpoError('GRPO_NO_GRADIENTS', 'backward: it ran before, or the scores were disposed');
    this.#hidden = null;
    const { head } = this.#decoder;
    const { temperature, workspaceBytes } = this.#options;
    const gradHidden = this.#device.empty(hidden.value.shape, hidden.value.dtype);
    try {
      this.#device.run('linearTokenLogProbsBackward', {
        hidden: hidden.value,
        weight: head.value,
        targets: this.#targets,
        logSumExp: this.logSumExp,
        entropy: this.entropy,
        gradLogProbs,
        gradEntropy,
        gradHidden,
        gradWeight: head.grad,
        temperature,
        softcap: 0,
        workspaceBytes,
      });
      if (!this.#decoder.config.tieWordEmbeddings) this.#options.onGradients?.('lm_head.');
      this.#tape.backward(hidden, gradHidden);
    } finally {
      gradHidden.dispose();
      this.#tape.dispose();
    }
  }

  dispose(): void {
    this.#hidden = null;
    this.#tape.dispose();
    this.#scope.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #forward(batch: PackedBatch): void {
    const { headDim } = this.#decoder.config;
    const layout = {
      sequenceOffsets: this.#indices(batch.rowOffsets),
      parents: this.#indices(batch.parents),
      maxLength: batch.maxLength,
      headDim,
      scale: 1 / Math.sqrt(headDim),
    };
    const tape = this.#tape;
    const last = this.#decoder.forward(
      tape,
      this.#indices(batch.ids),
      this.#indices(batch.positions),
      (inner, _layer, queries, keys, values) => inner.attention(queries, keys, values, layout),
    );
    const hidden = this.#decoder.finalNorm(tape, tape.gatherRows(last, this.#indices(batch.predicting)));
    const { temperature, workspaceBytes, gradients } = this.#options;
    this.#device.run('linearTokenLogProbs', {
      hidden: hidden.value,
      weight: this.#decoder.head.value,
      targets: this.#targets,
      logProbs: this.logProbs,
      entropy: this.entropy,
      logSumExp: this.logSumExp,
      temperature,
      softcap: 0,
      workspaceBytes,
    });
    if (gradients) this.#hidden = hidden;
  }

  #indices(values: Int32Array): Tensor {
    return this.#scope.track(this.#device.tensor(values, [values.length], 'i32'));
  }
}

function checkOptions(options: ScoreOptions): Required<ScoreOptions> {
  const { temperature = 1, workspaceBytes = 256 * 2 ** 20 } = options;
  if (!(temperature > 0 && Number.isFinite(temperature))) {
    throw new InvalidArgumentError('temperature', 'a positive number', temperature);
  }
  if (!(workspaceBytes > 0)) throw new InvalidArgumentError('workspaceBytes', 'a positive number', workspaceBytes);
  const { gradients = false, gradientCheckpointing = false, entropy = false, onGradients = null } = options;
  return { temperature, workspaceBytes, gradients, gradientCheckpointing, entropy, onGradients };
}

function pack(
  sequences: readonly TokenSequence[],
  { vocabSize, maxPositionEmbeddings }: { vocabSize: number; maxPositionEmbeddings: number },
): PackedBatch {
  const ids: number[] = [];
  const positions: number[] = [];
  const rowOffsets = [0];
  const parents: number[] = [];
  const predicting: number[] = [];
  const targets: number[] = [];
  const sequenceOffsets = [0];
  let maxLength = 0;
  const add = (parent: number, start: number, tokens: readonly number[]) => {
    tokens.forEach((token, i) => {
      ids.push(token);
      positions.push(start + i);
    });
    rowOffsets.push(ids.length);
    parents.push(parent);
    maxLength = Math.max(maxLength, start + tokens.length);
    return parents.length - 1;
  };
  const sharedPrompts = new Map<string, number>();
  sequences.forEach((sequence, s) => {
    const [prompt, completion] = checkSequence(`sequences[${s}]`, sequence, vocabSize, maxPositionEmbeddings);
    if (completion.length > 0) {
      const start = prompt.length - 1;
      const key = prompt.join();
      const parent = start === 0 ? -1 : (sharedPrompts.get(key) ?? add(-1, 0, prompt.slice(0, start)));
      sharedPrompts.set(key, parent);
      completion.forEach((token, i) => {
        predicting.push(ids.length + i);
        targets.push(token);
      });
      add(parent, start, [prompt[start]!, ...completion.slice(0, -1)]);
    }
    sequenceOffsets.push(targets.length);
  });
  return {
    ids: Int32Array.from(ids),
    positions: Int32Array.from(positions),
    rowOffsets: Int32Array.from(rowOffsets),
    parents: Int32Array.from(parents),
    maxLength,
    predicting: Int32Array.from(predicting),
    targets: Int32Array.from(targets),
    sequenceOffsets: Int32Array.from(sequenceOffsets),
  };
}

function checkSequence(
  name: string,
  { promptIds, completionIds }: TokenSequence,
  vocabSize: number,
  context: number,
): [prompt: number[], completion: number[]] {
  checkIds(`${name}.promptIds`, promptIds, vocabSize);
  checkIds(`${name}.completionIds`, completionIds, vocabSize);
  if (promptIds.length === 0) throw new InvalidArgumentError(`${name}.promptIds`, 'at least one token', []);
  const tokens = promptIds.length + completionIds.length;
  if (tokens > context) {
    throw new InvalidArgumentError(name, `at most the model's context of ${context} tokens`, `${tokens} tokens`);
  }
  return [Array.from(promptIds), Array.from(completionIds)];
}

/** Throws when an id is not one of the vocabulary. */
export function checkIds(name: string, ids: ArrayLike<number>, vocabSize: number): void {
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize) {
      throw new InvalidArgumentError(`${name}[${i}]`, `a token id below ${vocabSize}`, id);
    }
  }
}
