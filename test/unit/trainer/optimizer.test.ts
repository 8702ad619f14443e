import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import type { Device } from '../../../src/tensor.js';
import { AdamW, type OptimizerOptions } from '../../../src/trainer/optimizer.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const options = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 };

async function withOptimizer(
  given: Partial<OptimizerOptions> & { dtype?: 'f32' | 'bf16' },
  use: (optimizer: AdamW, policy: CausalLM) => Promise<void>,
): Promise<void> {
  const { dtype = 'f32', ...rest } = given;
  const policy = tinyPolicy({ device, seed: 1, dtype });
  const optimizer = new AdamW(policy.parameters, { ...options, ...rest });
  await use(optimizer, policy);
  optimizer.dispose();
  policy.dispose();
}

/** An update with this gradient for every weight; the norm of the gradients. */
async function update(optimizer: AdamW, policy: CausalLM, learningRate: number, gradient: number): Promise<number> {
  device.run('fill', { out: policy.parameters.gradients!, value: gradient });
  const norm = optimizer.update(learningRate);
  const value = (await norm.read())[0]!;
  norm.dispose();
  optimizer.applied(value);
  return value;
}

const normWeight = async (policy: CausalLM) => (await policy.parameters.get('model.norm.weight').value.read())[0]!;

describe('AdamW', () => {
  it('keeps updates that a bf16 weight cannot hold', async () => {
    await withOptimizer({ dtype: 'bf16' }, async (optimizer, policy) => {
      expect(await normWeight(policy)).toBe(1);
      await update(optimizer, policy, 1e-3, 1);
      // Half the distance from 1 to the next bf16 below is 0.00195.
      expect(await normWeight(policy)).toBe(1);
      for (let i = 0; i < 3; i++) await update(optimizer, policy, 1e-3, 1);
      expect(await normWeight(policy)).toBe(1 - 2 ** -8);
      expect(Object.keys(optimizer.tensors)).toContain('master_weights');
    });
  });

  it('decays matrices, but not norms', async () => {
    await withOptimizer({ weightDecay: 0.5 }, async (optimizer, policy) => {
      const { value } = policy.parameters.get('model.embed_tokens.weight');
      const before = (await value.read())[0]!;
      await update(optimizer, policy, 0.1, 0);
      expect((await value.read())[0]).toBeCloseTo(before * (1 - 0.1 * 0.5), 6);
      expect(await normWeight(policy)).toBe(1);
    });
  });

  it('scales the gradients down to maxGradNorm', async () => {
    const secondMoments: number[] = [];
    for (const maxGradNorm of [0, 1]) {
      await withOptimizer({ maxGradNorm }, async (optimizer, policy) => {
        const norm = await update(optimizer, policy, 1e-3, 0.5);
        expect(norm).toBeCloseTo(0.5 * Math.sqrt(policy.parameters.count), 2);
        secondMoments.push((await optimizer.tensors.second_moment!.read())[0]! * policy.parameters.count);
      });
    }
    // The sum of squares of the gradient, times 1 - beta2.
    const [free, clipped] = secondMoments as [number, number];
    expect(clipped / 1e-3).toBeCloseTo(1, 3);
    expect(free / clipped).toBeGreaterThan(1000);
  });

  it('sets the gradients to zero afterwards', async () => {
    await withOptimizer({}, async (optimizer, policy) => {
      await update(optimizer, policy, 1e-3, 1);
      expect((await policy.parameters.gradients!.read()).every((value) => value === 0)).toBe(true);
    });
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('leaves everything as it was when a gradient is %d', async (bad) => {
    await withOptimizer({ weightDecay: 0.1 }, async (optimizer, policy) => {
      await update(optimizer, policy, 1e-3, 1);
      const before = await policy.parameters.flat.readBytes();
      expect(Number.isFinite(await update(optimizer, policy, 1e-3, bad))).toBe(false);
      expect(await policy.parameters.flat.readBytes()).toEqual(before);
      expect(optimizer.updates).toBe(1);
      await update(optimizer, policy, 1e-3, 1);
      expect(optimizer.updates).toBe(2);
      expect((await policy.parameters.flat.read()).every(Number.isFinite)).toBe(true);
    });
  });
});
