/**
 * A policy of jax-js, trained with the GRPO loss of this package on the same GPU:
 *
 *     npx tsx examples/jax-js/train.ts
 *
 * In a browser the import of `webgpu-in-node` is left out.
 */
import '../webgpu-in-node.js';
import {
  defaultDevice,
  getWebGPUDevice,
  init,
  type Array as JaxArray,
  numpy as np,
  random,
  valueAndGrad,
} from '@jax-js/jax';
import { groupAdvantages, openWebGpuDevice } from 'grpo-native';
import {
  createRandom,
  features,
  inputs,
  mean,
  rewardsOf,
  sampleTokens,
  sequenceOffsets,
  task,
  tokens,
} from '../rotation-task.js';
import { grpoGradient, surrogate } from './grpo-gradient.js';

type Weights = { hidden: JaxArray; head: JaxArray };

if (!(await init('webgpu')).includes('webgpu')) throw new Error('no WebGPU adapter');
defaultDevice('webgpu');
const device = await openWebGpuDevice({ gpuDevice: getWebGPUDevice() });

const learningRate = 6;
const uniform = createRandom(1);
const [hiddenKey, headKey] = [random.key(1), random.key(2)];
let weights: Weights = {
  hidden: random.normal(hiddenKey, [features, 32]).mul(0.5),
  head: random.normal(headKey, [32, task.vocab]).mul(0.1),
};
const rows = np.array(inputs(), { shape: [tokens, features] });

/** [tokens, vocab]. As every function of jax-js it consumes its arguments. */
const policy = ({ hidden, head }: Weights) => np.matmul(np.tanh(np.matmul(rows.ref, hidden)), head);
const loss = (given: Weights, gradient: JaxArray) => surrogate(policy(given), gradient);
const another = ({ hidden, head }: Weights): Weights => ({ hidden: hidden.ref, head: head.ref });

for (let step = 0; step < 40; step++) {
  const logits = policy(another(weights));
  const targets = sampleTokens((await logits.ref.data()) as Float32Array, uniform);
  const rewards = rewardsOf(targets);
  using given = device.tensor(rewards, [rewards.length]);
  using advantages = groupAdvantages(given, { groupSize: task.groupSize });
  const batch = { targets, advantages, sequenceOffsets };
  const { gradient, loss: policyLoss } = await grpoGradient(device, logits, batch, { entropyCoefficient: 0.001 });
  const [value, slopes] = valueAndGrad(loss)(another(weights), gradient);
  value.dispose();
  const { hidden, head } = slopes as Weights;
  weights = {
    hidden: weights.hidden.sub(hidden.mul(learningRate)),
    head: weights.head.sub(head.mul(learningRate)),
  };
  console.log(step, mean(rewards), policyLoss);
}
device.close();
