import type { Tape, Variable } from '../autograd.js';
import type { Tensor } from '../tensor.js';
import type { ActivationDType } from './activations.js';
import { features, inverseFrequencies, type ModelConfig } from './config.js';
import type { Parameter, ParameterSpec, Parameters } from './parameters.js';

/** Queries [N, heads * headDim], keys and values [N, keyValueHeads * headDim] of a layer -> [N, heads * headDim]. */
export type Attend = (tape: Tape, layer: number, queries: Variable, keys: Variable, values: Variable) => Variable;

interface Layer {
  inputNorm: Parameter;
  qkv: Parameter;
  qkvBias: Parameter | null;
  queryNorm: Parameter | null;
  keyNorm: Parameter | null;
  output: Parameter;
  outputBias: Parameter | null;
  postNorm: Parameter;
  gateUp: Parameter;
  gateUpBias: Parameter | null;
  down: Parameter;
  downBias: Parameter | null;
}

/**
 * The weights of a model, by their Hugging Face names. Projections of one input stand next to each other, so that each
 * group of them is one matrix product.
 */
export function parameterSpecs(config: ModelConfig): ParameterSpec[] {
  const { hiddenSize, intermediateSize, vocabSize, headDim, mlpBias } = config;
  const { qkvBias, outputBias, qkNorm } = features(config);
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const specs: ParameterSpec[] = [];
  const matrix = (name: string, rows: number, columns: number) =>
    specs.push({ name: `${name}.weight`, shape: [rows, columns], decay: true });
  const vector = (name: string, length: number) => specs.push({ name, shape: [length], decay: false });
  matrix('model.embed_tokens', vocabSize, hiddenSize);
  for (let i = 0; i < config.numHiddenLayers; i++) {
    const { attention, mlp, layer } = names(i);
    vector(`${layer}.input_layernorm.weight`, hiddenSize);
    for (const part of projections.qkv) {
      matrix(`${attention}.${part}`, part === 'q_proj' ? queries : keys, hiddenSize);
      if (qkvBias) vector(`${attention}.${part}.bias`, part === 'q_proj' ? queries : keys);
    }
    matrix(`${attention}.o_proj`, hiddenSize, queries);
    if (outputBias) vector(`${attention}.o_proj.bias`, hiddenSize);
    if (qkNorm) for (const part of ['q_norm', 'k_norm']) vector(`${attention}.${part}.weight`, headDim);
    vector(`${layer}.post_attention_layernorm.weight`, hiddenSize);
    for (const part of projections.gateUp) {
      matrix(`${mlp}.${part}`, intermediateSize, hiddenSize);
      if (mlpBias) vector(`${mlp}.${part}.bias`, intermediateSize);
    }
    matrix(`${mlp}.down_proj`, hiddenSize, intermediateSize);
    if (mlpBias) vector(`${mlp}.down_proj.bias`, hiddenSize);
  }
  vector('model.norm.weight', hiddenSize);
  if (!config.tieWordEmbeddings) matrix('lm_head', vocabSize, hiddenSize);
  return specs;
}

/**
 * How the names of parameters begin, in the order in which a backward pass has done with them: the milestones that the
 * decoder leaves on the tape. The head is done before anything else, unless it is the embedding.
 */
export function gradientOrder(config: ModelConfig): string[] {
  const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => `${names(i).layer}.`);
  const head = config.tieWordEmbeddings ? [] : ['lm_head.'];
  return [...head, normPrefix, ...layers.reverse(), embeddingPrefix];
}

const normPrefix = 'model.norm.';
const embeddingPrefix = 'model.embed_tokens.';

const projections = { qkv: ['q_proj', 'k_proj', 'v_proj'], gateUp: ['gate_proj', 'up_proj'] } as const;

function names(index: number) {
  const layer = `model.layers.${index}`;
  return { layer, attention: `${layer}.self_attn`, mlp: `${layer}.mlp` };
}

/** The transformer between token ids and the final norm. Attention is given from outside: packed, or over a cache. */
export class Decoder {
  readonly config: ModelConfig;
  /** dtype of the tapes that it is given. */
  readonly activations: ActivationDType;
  /** [V,H]: the embedding itself when the two are tied. */
  readonly head: Parameter;
  readonly #embedding: Parameter;
  readonly #norm: Parameter;
  readonly #layers: Layer[];
  readonly #inverseFrequencies: Tensor;

  constructor(config: ModelConfig, parameters: Parameters, activations: ActivationDType) {
    const { qkvBias, outputBias, qkNorm } = features(config);
    this.config = config;
    this.activations = activations;
    this.#embedding = parameters.get('model.embed_tokens.weight');
    this.head = config.tieWordEmbeddings ? this.#embedding : parameters.get('lm_head.weight');
    this.#norm = parameters.get('model.norm.weight');
    this.#layers = Array.from({ length: config.numHiddenLayers }, (_, i) => {
      const { layer, attention, mlp } = names(i);
      const get = (name: string, present = true) => (present ? parameters.get(name) : null);
      const span = (prefix: string, parts: readonly string[], kind: string, present = true) =>
        present ? parameters.span(parts.map((part) => `${prefix}.${part}.${kind}`)) : null;
      return {
        inputNorm: get(`${layer}.input_layernorm.weight`)!,
        qkv: span(attention, projections.qkv, 'weight')!,
        qkvBias: span(attention, projections.qkv, 'bias', qkvBias),
        queryNorm: get(`${attention}.q_norm.weight`, qkNorm),
        keyNorm: get(`${attention}.k_norm.weight`, qkNorm),
        output: get(`${attention}.o_proj.weight`)!,
        outputBias: get(`${attention}.o_proj.bias`, outputBias),
        postNorm: get(`${layer}.post_attention_layernorm.weight`)!,
        gateUp: span(mlp, projections.gateUp, 'weight')!,
        gateUpBias: span(mlp, projections.gateUp, 'bias', config.mlpBias),
        down: get(`${mlp}.down_proj.weight`)!,
        downBias: get(`${mlp}.down_proj.bias`, config.mlpBias),
      };
    });
    const frequencies = inverseFrequencies(config);
    this.#inverseFrequencies = parameters.device.tensor(frequencies, [frequencies.length]);
  }

  /** ids and positions [N] -> the last layer's output [N,H], before the final norm. */
  forward(tape: Tape, ids: Tensor, positions: Tensor, attend: Attend): Variable {
    tape.milestone(embeddingPrefix);
    let x = tape.embedding(this.#embedding, ids);
    for (let i = 0; i < this.#layers.length; i++) {
      tape.milestone(`${names(i).layer}.`);
      x = tape.block((inner, input) => this.#layer(inner, i, input, positions, attend), x);
    }
    return x;
  }

  /** What the head is applied to. */
  finalNorm(tape: Tape, x: Variable): Variable {
    tape.milestone(normPrefix);
    return tape.rmsNorm(x, this.#norm, this.config.rmsNormEps);
  }

  dispose(): void {
    this.#inverseFrequencies.dispose();
  }

  #layer(tape: Tape, index: number, x: Variable, positions: Tensor, attend: Attend): Variable {
    const { rmsNormEps, intermediateSize } = this.config;
    const layer = this.#layers[index]!;
    const qkv = tape.linear(tape.rmsNorm(x, layer.inputNorm, rmsNormEps), layer.qkv, layer.qkvBias);
    const { queries, keys, values } = this.#heads(tape, layer, qkv, positions);
    const attended = attend(tape, index, queries, keys, values);
    const middle = tape.linear(attended, layer.output, layer.outputBias, x);
    const gateUp = tape.linear(tape.rmsNorm(middle, layer.postNorm, rmsNormEps), layer.gateUp, layer.gateUpBias);
    const [gate, up] = tape.split(gateUp, [intermediateSize, intermediateSize]);
    return tape.linear(tape.swiglu(gate!, up!), layer.down, layer.downBias, middle);
  }

  /** Splits the joint projection, norms queries and keys where the model does, and rotates them. */
  #heads(tape: Tape, layer: Layer, qkv: Variable, positions: Tensor) {
    const { headDim, rmsNormEps, numAttentionHeads, numKeyValueHeads } = this.config;
    const widths = [numAttentionHeads * headDim, numKeyValueHeads * headDim, numKeyValueHeads * headDim];
    let [queries, keys, values] = tape.split(qkv, widths) as [Variable, Variable, Variable];
    if (layer.queryNorm) queries = tape.rmsNorm(queries, layer.queryNorm, rmsNormEps);
    if (layer.keyNorm) keys = tape.rmsNorm(keys, layer.keyNorm, rmsNormEps);
    for (const x of [queries, keys]) tape.rope(x, positions, this.#inverseFrequencies, headDim);
    return { queries, keys, values };
  }
}
