import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { InvalidArgumentError } from '../../../src/errors.js';
import { activationsOf } from '../../../src/models/activations.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import { cacheBytesPerToken } from '../../../src/rollout/decode-operations.js';
import type { Device } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';
import { fixtureFolder } from './fixtures.js';

describe('the dtype of activations', () => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice('cpu');
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  it('is bf16 for bf16 weights on CUDA, f32 elsewhere, or what was asked for', () => {
    expect(activationsOf(null, 'cuda', 'bf16')).toBe('bf16');
    for (const [kind, weights] of [
      ['cuda', 'f32'],
      ['cuda', 'f16'],
      ['cpu', 'bf16'],
      ['webgpu', 'bf16'],
    ] as const) {
      expect(activationsOf(undefined, kind, weights)).toBe('f32');
      expect(activationsOf('bf16', kind, weights)).toBe('bf16');
    }
    expect(activationsOf('f32', 'cuda', 'bf16')).toBe('f32');
  });

  it.each(['f16', 'i32', 'bfloat16', ''])('cannot be %j', async (wrong) => {
    const options = { device, activations: wrong as 'f32' };
    expect(() => tinyPolicy(options)).toThrow(InvalidArgumentError);
    expect(() => tinyPolicy(options)).toThrow(/Expected f32 or bf16 for activations but received/);
    await expect(CausalLM.load(fixtureFolder('llama'), options)).rejects.toThrow(/for activations/);
  });

  it('is that of a policy and its copies, and of the cache', async () => {
    using policy = tinyPolicy({ device, dtype: 'bf16', activations: 'bf16' });
    using plain = tinyPolicy({ device, dtype: 'bf16' });
    using copy = policy.clone();
    const other = await openDevice('cpu');
    const away = await policy.cloneTo(other);
    for (const model of [policy, copy, away]) expect(model.decoder.activations).toBe('bf16');
    expect(plain.decoder.activations).toBe('f32');
    expect(cacheBytesPerToken(plain.decoder)).toBe(2 * 2 * 16 * 4);
    expect(cacheBytesPerToken(policy.decoder)).toBe(2 * 2 * 16 * 2);
    const sequences = [{ promptIds: [1, 2, 3], completionIds: [4, 5, 6, 7] }];
    const [expected] = await policy.logProbs(sequences);
    for (const model of [copy, away]) expect(await model.logProbs(sequences)).toEqual([expected]);
    expect(await plain.logProbs(sequences)).not.toEqual([expected]);
    away.dispose();
    other.close();
  });

  it('halves what the forward pass keeps for backward', async () => {
    const kept = async (activations: 'f32' | 'bf16') => {
      using policy = tinyPolicy({ device, dtype: 'bf16', activations }, { numHiddenLayers: 6 });
      policy.parameters.enableGradients();
      const sequences = [{ promptIds: [3], completionIds: new Int32Array(100).fill(9) }];
      await device.synchronize();
      const before = device.memory().liveBytes;
      using scores = policy.score(sequences, { gradients: true });
      await scores.logProbs.read();
      return device.memory().liveBytes - before;
    };
    // Not all: reciprocal norms and softmax denominators of the rows stay float32.
    const ratio = (await kept('bf16')) / (await kept('f32'));
    expect(ratio).toBeGreaterThan(0.5);
    expect(ratio).toBeLessThan(0.55);
  });
});
