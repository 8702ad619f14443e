import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-core/dist/register_all_gradients.js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GrpoLoss } from '../../examples/tensorflowjs/grpo-loss.js';
import { gpu } from '../../examples/webgpu-in-node.js';
import { openWebGpuDevice } from '../../src/browser.js';
import type { Device } from '../../src/tensor.js';
import { meanReward, runExample } from './run-example.js';

const adapter = await gpu.requestAdapter().catch(() => null);

describe.skipIf(!adapter)('the GRPO loss in TensorFlow.js', () => {
  let gpuDevice: GPUDevice;
  let backend: WebGPUBackend;
  let device: Device;

  beforeAll(async () => {
    gpuDevice = await adapter!.requestDevice();
    backend = new WebGPUBackend(gpuDevice, adapter!.info);
    if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu');
    tf.registerBackend('webgpu', () => backend);
    await tf.setBackend('webgpu');
    device = await openWebGpuDevice({ gpuDevice });
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
    gpuDevice.destroy();
  });

  it('has the value and the gradient of the formula written in TensorFlow.js, clipped tokens among them', async () => {
    const [tokens, vocab] = [8, 16];
    const targets = Int32Array.from({ length: tokens }, (_, i) => (5 * i) % vocab);
    const advantages = Float32Array.of(1, -0.5);
    const oldLogProbs = Float32Array.of(-3.5, -2, -2.8, -3, -4, -3.3, -1, -2.6);
    const weights = tf.randomNormal([4, vocab], 0, 0.5, 'float32', 1) as tf.Tensor2D;
    const rows = tf.randomNormal([tokens, 4], 0, 1, 'float32', 2) as tf.Tensor2D;
    const formula = (logits: tf.Tensor2D): tf.Scalar => {
      const all = tf.logSoftmax(logits);
      const logProbs = tf.sum(tf.mul(all, tf.oneHot(tf.tensor1d(targets, 'int32'), vocab)), -1);
      const entropy = tf.neg(tf.sum(tf.mul(tf.exp(all), all), -1));
      const ratio = tf.exp(tf.sub(logProbs, tf.tensor1d(oldLogProbs)));
      const gain = tf.tensor1d([1, 1, 1, 1, -0.5, -0.5, -0.5, -0.5]);
      const objective = tf.minimum(tf.mul(ratio, gain), tf.mul(tf.clipByValue(ratio, 0.8, 1.2), gain));
      return tf.neg(tf.add(tf.mean(objective), tf.mul(0.01, tf.mean(entropy)))) as tf.Scalar;
    };
    const ours = new GrpoLoss(backend, device, [tokens, vocab], { entropyCoefficient: 0.01 });
    const batch = { targets, advantages, oldLogProbs, sequenceOffsets: Int32Array.of(0, 4, 8) };
    // Three times the loss, so that the gradient from above matters.
    const of = async (loss: (logits: tf.Tensor2D) => tf.Scalar) => {
      const { value, grad } = tf.valueAndGrad((w) => tf.mul(3, loss(tf.matMul(rows, w as tf.Tensor2D))))(weights);
      return { value: (await value.data())[0]!, grad: (await grad.data()) as Float32Array };
    };
    const expected = await of(formula);
    const actual = await of((logits) => ours.of(logits, batch));
    const metrics = await ours.metrics;
    expect(actual.value).toBeCloseTo(expected.value, 5);
    expect(Math.max(...expected.grad.map(Math.abs))).toBeGreaterThan(0.05);
    actual.grad.forEach((slope, i) => {
      expect(slope).toBeCloseTo(expected.grad[i]!, 5);
    });
    expect(Object.entries(metrics).some(([key, value]) => key.includes('clip') && value > 0)).toBe(true);
    ours.dispose();
  });

  it('trains a policy', async () => {
    const lines = await runExample('examples/tensorflowjs/train.ts');
    expect(meanReward(lines.slice(0, 3))).toBeLessThan(0.2);
    expect(meanReward(lines.slice(-5))).toBeGreaterThan(0.45);
  }, 120_000);
});
