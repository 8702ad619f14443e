import {
  defaultDevice,
  getWebGPUDevice,
  grad,
  init,
  type Array as JaxArray,
  nn,
  numpy as np,
  random,
} from '@jax-js/jax';
import { describe, expect, it } from 'vitest';
import { grpoGradient, surrogate } from '../../examples/jax-js/grpo-gradient.js';
import { gpu } from '../../examples/webgpu-in-node.js'; // first: jax-js looks for it
import { openWebGpuDevice } from '../../src/browser.js';
import { meanReward, runExample } from './run-example.js';

const adapter = await gpu.requestAdapter().catch(() => null);

describe.skipIf(!adapter)('the GRPO loss in jax-js', () => {
  it('has the gradient of the formula written in jax-js, clipped tokens among them', async () => {
    await init('webgpu');
    defaultDevice('webgpu');
    const device = await openWebGpuDevice({ gpuDevice: getWebGPUDevice() });
    const [tokens, vocab] = [8, 16];
    const targets = Int32Array.from({ length: tokens }, (_, i) => (5 * i) % vocab);
    const oldLogProbs = Float32Array.of(-3.5, -2, -2.8, -3, -4, -3.3, -1, -2.6);
    const weights = random.normal(random.key(1), [4, vocab]).mul(0.5);
    const rows = random.normal(random.key(2), [tokens, 4]);
    const policy = (w: JaxArray) => np.matmul(rows.ref, w);
    const formula = (w: JaxArray) => {
      const all = nn.logSoftmax(policy(w));
      const chosen = np.array(
        Float32Array.from({ length: tokens * vocab }, (_, i) => (i % vocab === targets[Math.floor(i / vocab)] ? 1 : 0)),
        { shape: [tokens, vocab] },
      );
      const logProbs = np.sum(all.ref.mul(chosen), -1);
      const entropy = np.sum(np.exp(all.ref).mul(all), -1).mul(-1);
      const ratio = np.exp(logProbs.sub(np.array(oldLogProbs)));
      const gain = np.array([1, 1, 1, 1, -0.5, -0.5, -0.5, -0.5]);
      const objective = np.minimum(ratio.ref.mul(gain.ref), np.clip(ratio, 0.8, 1.2).mul(gain));
      return np.mean(objective).add(np.mean(entropy).mul(0.01)).mul(-1);
    };
    const expected = (await grad(formula)(weights.ref).data()) as Float32Array;
    const inputs = { targets, oldLogProbs, advantages: [1, -0.5], sequenceOffsets: [0, 4, 8] };
    const { gradient } = await grpoGradient(device, policy(weights.ref), inputs, { entropyCoefficient: 0.01 });
    const actual = (await grad((w: JaxArray) => surrogate(policy(w), gradient))(weights).data()) as Float32Array;
    expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(0.02);
    actual.forEach((slope, i) => {
      expect(slope).toBeCloseTo(expected[i]!, 5);
    });
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  }, 60_000);

  it('trains a policy', async () => {
    const lines = await runExample('examples/jax-js/train.ts');
    expect(meanReward(lines.slice(0, 3))).toBeLessThan(0.2);
    expect(meanReward(lines.slice(-5))).toBeGreaterThan(0.45);
  }, 120_000);
});
