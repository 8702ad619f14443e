/**
 * A policy of TensorFlow.js, trained by its own optimiser with the GRPO loss of this package on the same GPU:
 *
 *     npx tsx examples/tensorflowjs/train.ts
 *
 * In a browser `gpu` is `navigator.gpu`, and the gradients of TensorFlow.js are registered by
 * `import '@tensorflow/tfjs-core/dist/register_all_gradients'`.
 */
import { createRequire } from 'node:module';
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
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
import { gpu } from '../webgpu-in-node.js';
import { GrpoLoss } from './grpo-loss.js';

// As CommonJS: its files name each other in a way that modules of Node do not resolve.
createRequire(import.meta.url)('@tensorflow/tfjs-core/dist/register_all_gradients');

const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('no WebGPU adapter');
const gpuDevice = await adapter.requestDevice();

// Both sides on one GPUDevice. TensorFlow.js has its kernels under the name webgpu only.
const backend = new WebGPUBackend(gpuDevice, adapter.info);
if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu');
tf.registerBackend('webgpu', () => backend);
await tf.setBackend('webgpu');
const device = await openWebGpuDevice({ gpuDevice });

const hidden = tf.variable(tf.randomNormal([features, 32], 0, 0.5, 'float32', 1));
const head = tf.variable(tf.randomNormal([32, task.vocab], 0, 0.1, 'float32', 2));
const rows = tf.tensor2d(inputs(), [tokens, features]);
const policy = () => tf.matMul(tf.tanh(tf.matMul(rows, hidden)), head) as tf.Tensor2D;

const random = createRandom(1);
const optimizer = tf.train.adam(0.03);
const loss = new GrpoLoss(backend, device, [tokens, task.vocab], { entropyCoefficient: 0.001 });
for (let step = 0; step < 40; step++) {
  const logits = tf.tidy(policy);
  const targets = sampleTokens(await logits.data(), random);
  logits.dispose();
  const rewards = rewardsOf(targets);
  using given = device.tensor(rewards, [rewards.length]);
  using advantages = groupAdvantages(given, { groupSize: task.groupSize });
  const value = optimizer.minimize(() => loss.of(policy(), { targets, advantages, sequenceOffsets }), true)!;
  const { entropy } = await loss.metrics;
  console.log(step, mean(rewards), (await value.data())[0], entropy);
  value.dispose();
}
loss.dispose();
device.close();
gpuDevice.destroy();
