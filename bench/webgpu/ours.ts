import {
  type Device,
  groupAdvantages,
  policyLoss,
  type Tensor,
  tokenLogProbs,
  tokenLogProbsBackward,
} from '../../src/index.js';
import { klCoefficient } from './problems.js';
import { type Inputs, type Operation, type Side, sample } from './side.js';

type Results = Record<string, Tensor>;

/** The kernels of this package. */
export function ourSide(device: Device, name: string): Side {
  return {
    name,
    async prepare(operation, inputs) {
      const run = calls[operation](inputs);
      let results: Results = {};
      const free = () => {
        for (const tensor of Object.values(results)) tensor.dispose();
        results = {};
      };
      return {
        queue() {
          free();
          results = run();
        },
        wait: () => device.synchronize(),
        async results() {
          const parts: Record<string, Float32Array> = {};
          for (const [key, tensor] of Object.entries(results)) {
            parts[key] = await sample(tensor.size, async (begin, length) => {
              using part = tensor.view([length], begin);
              return await part.read();
            });
          }
          return parts;
        },
        dispose: free,
      };
    },
  };
}

const calls: Record<Operation, (inputs: Inputs) => () => Results> = {
  forward({ logits, targets }) {
    return () => ({ ...tokenLogProbs(logits!.tensor, targets!.tensor) });
  },
  backward(inputs) {
    return () => ({ gradLogits: backward(inputs, { ...tensors(inputs, 'logSumExp', 'entropy') }) });
  },
  both(inputs) {
    return () => {
      const forward: Results = { ...tokenLogProbs(inputs.logits!.tensor, inputs.targets!.tensor) };
      return { ...forward, gradLogits: backward(inputs, forward) };
    };
  },
  policyLoss(inputs) {
    const given = tensors(inputs, 'logProbs', 'oldLogProbs', 'refLogProbs', 'advantages', 'sequenceOffsets');
    return () => {
      const { loss, gradLogProbs, statistics } = policyLoss(given as never, { beta: klCoefficient });
      statistics.dispose();
      return { loss, gradLogProbs };
    };
  },
  groupAdvantages({ rewards, groupOffsets }) {
    return () => ({ advantages: groupAdvantages(rewards!.tensor, { groupOffsets: groupOffsets!.tensor }) });
  },
};

function backward(inputs: Inputs, forward: Results): Tensor {
  const { logits, targets } = inputs;
  const gradients = tensors(inputs, 'gradLogProbs', 'gradEntropy');
  return tokenLogProbsBackward(logits!.tensor, targets!.tensor, { ...forward, ...gradients } as never);
}

function tensors(inputs: Inputs, ...names: string[]): Results {
  return Object.fromEntries(names.map((name) => [name, inputs[name]!.tensor]));
}
