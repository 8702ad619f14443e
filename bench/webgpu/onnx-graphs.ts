/** The operations as ONNX graphs. They are written out, gradients too: its runtime does not differentiate in a browser. */
import type { Model, ModelNode, ModelTensor } from './onnx-model.js';
import { clipRange, deviationEpsilon, klCoefficient } from './problems.js';
import type { Inputs, Operation } from './side.js';

export const graphs: Record<Operation, (inputs: Inputs) => Model> = {
  forward(inputs) {
    const { rows, tensors } = rowTensors(inputs, 'targets');
    return {
      nodes: forward(),
      inputs: tensors,
      outputs: [f32('logProbs', [rows, 1]), f32('entropy', [rows, 1])],
      constants,
    };
  },
  backward(inputs) {
    const { rows, vocab, tensors } = rowTensors(inputs, ...upstream, 'entropy', 'logSumExp');
    return {
      nodes: [node('Sub', ['logits', 'logSumExp'], 'logP'), node('Exp', ['logP'], 'p'), ...gradient()],
      inputs: tensors,
      outputs: [f32('gradLogits', [rows, vocab])],
      constants: gradientConstants(vocab),
    };
  },
  both(inputs) {
    const { rows, vocab, tensors } = rowTensors(inputs, ...upstream);
    return {
      nodes: [...forward(), node('Div', ['e', 'sum'], 'p'), node('Sub', ['d', 'logSum'], 'logP'), ...gradient()],
      inputs: tensors,
      outputs: [f32('logProbs', [rows, 1]), f32('entropy', [rows, 1]), f32('gradLogits', [rows, vocab])],
      constants: { ...constants, ...gradientConstants(vocab) },
    };
  },
  policyLoss(inputs) {
    const tokens = inputs.logProbs!.tensor.size;
    const names = ['logProbs', 'oldLogProbs', 'refLogProbs'];
    return {
      nodes: [
        node('Sub', ['logProbs', 'oldLogProbs'], 'logRatio'),
        node('Exp', ['logRatio'], 'ratio'),
        node('Gather', ['advantages', 'sequences'], 'gain', { axis: 0 }),
        node('Mul', ['ratio', 'gain'], 'plain'),
        node('Clip', ['ratio', 'low', 'high'], 'limited'),
        node('Mul', ['limited', 'gain'], 'clipped'),
        node('Min', ['plain', 'clipped'], 'objective'),
        node('Sub', ['refLogProbs', 'logProbs'], 'difference'),
        node('Exp', ['difference'], 'inverseRatio'),
        node('Sub', ['inverseRatio', 'difference'], 'klAndOne'),
        node('Sub', ['klAndOne', 'one'], 'kl'),
        node('Mul', ['kl', 'beta'], 'penalty'),
        node('Sub', ['penalty', 'objective'], 'losses'),
        node('ReduceMean', ['losses'], 'loss', { axes: [0], keepdims: 1 }),
        node('LessOrEqual', ['plain', 'clipped'], 'open'),
        node('Where', ['open', 'plain', 'zero'], 'gradObjective'),
        node('Sub', ['one', 'inverseRatio'], 'gradKl'),
        node('Mul', ['gradKl', 'beta'], 'gradPenalty'),
        node('Sub', ['gradPenalty', 'gradObjective'], 'gradLosses'),
        node('Mul', ['gradLosses', 'share'], 'gradLogProbs'),
      ],
      inputs: [
        ...names.map((name) => f32(name, [tokens])),
        f32('advantages', inputs.advantages!.tensor.shape),
        { name: 'sequences', dtype: 'i32', shape: [tokens] },
      ],
      outputs: [f32('loss', [1]), f32('gradLogProbs', [tokens])],
      constants: { low: 1 - clipRange, high: 1 + clipRange, beta: klCoefficient, one: 1, zero: 0, share: 1 / tokens },
    };
  },
  groupAdvantages(inputs) {
    const groups = inputs.groupOffsets!.tensor.size - 1;
    const size = inputs.rewards!.tensor.size / groups;
    return {
      nodes: [
        node('ReduceMean', ['rewards'], 'mean', { axes: [1], keepdims: 1 }),
        node('Sub', ['rewards', 'mean'], 'centred'),
        node('Mul', ['centred', 'centred'], 'squared'),
        node('ReduceSum', ['squared', 'columns'], 'squares', { keepdims: 1 }),
        node('Div', ['squares', 'degrees'], 'variance'),
        node('Sqrt', ['variance'], 'deviation'),
        node('Add', ['deviation', 'epsilon'], 'divisor'),
        node('Div', ['centred', 'divisor'], 'advantages'),
      ],
      inputs: [f32('rewards', [groups, size])],
      outputs: [f32('advantages', [groups, size])],
      constants: { ...constants, degrees: size - 1, epsilon: deviationEpsilon },
    };
  },
};

const upstream = ['targets', 'gradLogProbs', 'gradEntropy'];
const constants = { columns: [1n] };

/** With d = x - max and e = exp(d): its provider has no LogSoftmax for the GPU. */
function forward(): ModelNode[] {
  return [
    node('ReduceMax', ['logits'], 'max', { axes: [1], keepdims: 1 }),
    node('Sub', ['logits', 'max'], 'd'),
    node('Exp', ['d'], 'e'),
    node('ReduceSum', ['e', 'columns'], 'sum', { keepdims: 1 }),
    node('Log', ['sum'], 'logSum'),
    node('GatherElements', ['d', 'targets'], 'chosen', { axis: 1 }),
    node('Sub', ['chosen', 'logSum'], 'logProbs'),
    node('Mul', ['e', 'd'], 'weighted'),
    node('ReduceSum', ['weighted', 'columns'], 'weightedSum', { keepdims: 1 }),
    node('Div', ['weightedSum', 'sum'], 'meanD'),
    node('Sub', ['logSum', 'meanD'], 'entropy'),
  ];
}

/** -p (g + h (log p + H)), and g more for the target. */
function gradient(): ModelNode[] {
  return [
    node('Add', ['logP', 'entropy'], 'surprise'),
    node('Mul', ['surprise', 'gradEntropy'], 'entropySlope'),
    node('Add', ['entropySlope', 'gradLogProbs'], 'slope'),
    node('Mul', ['p', 'slope'], 'fall'),
    node('Equal', ['tokens', 'targets'], 'isTarget'),
    node('Where', ['isTarget', 'gradLogProbs', 'zero'], 'rise'),
    node('Sub', ['rise', 'fall'], 'gradLogits'),
  ];
}

function gradientConstants(vocab: number) {
  return { zero: 0, tokens: Int32Array.from({ length: vocab }, (_, i) => i) };
}

function rowTensors(inputs: Inputs, ...names: string[]) {
  const [rows, vocab] = inputs.logits!.tensor.shape as [number, number];
  const columns = names.map((name): ModelTensor => {
    const dtype = name === 'targets' ? 'i32' : 'f32';
    return { name, dtype, shape: [rows, 1] };
  });
  return { rows, vocab, tensors: [f32('logits', [rows, vocab]), ...columns] };
}

function f32(name: string, shape: readonly number[]): ModelTensor {
  return { name, dtype: 'f32', shape };
}

function node(op: string, inputs: string[], output: string, attributes?: ModelNode['attributes']): ModelNode {
  return { op, inputs, output, attributes };
}
