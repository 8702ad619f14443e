import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import { parseGRPOConfig } from '../../../src/trainer/parse-config.js';
import { estimateMemory, parameterCount, planRun } from '../../../src/trainer/plan.js';
import { tinyPolicy } from '../../tiny-model.js';

describe('planRun', () => {
  const options = {
    numGenerations: 8,
    perDeviceTrainBatchSize: 16,
    gradientAccumulationSteps: 2,
    stepsPerGeneration: 8,
    numIterations: 2,
    numTrainEpochs: 3,
    learningRate: 1,
    lrSchedulerType: 'linear',
    warmupSteps: 4,
  };

  it('counts what an update and a generation take', () => {
    expect(planRun(parseGRPOConfig({ ...options, contrast: {} }), 100)).toMatchObject({
      promptsPerGeneration: 16,
      completionsPerGeneration: 128,
      completionsPerUpdate: 32,
      updatesPerGeneration: 8,
      directCompletions: 2,
      demonstrationsPerUpdate: 0,
      totalUpdates: 150,
    });
    const cloning = { ...options, sftCoefficient: 0.5 };
    expect(planRun(parseGRPOConfig(cloning), 100).demonstrationsPerUpdate).toBe(32);
    expect(planRun(parseGRPOConfig({ ...cloning, sftBatchSize: 5 }), 100).demonstrationsPerUpdate).toBe(5);
  });

  it('has the learning rates of chosen updates, once the length of the run is known', () => {
    const plan = planRun(parseGRPOConfig({ ...options, maxSteps: 104 }), null);
    const expected = [0, 0.25, 0.75, 1, 0.79, 0.53, 0.27, 0.01];
    expect(plan.learningRates.map(({ update }) => update)).toEqual([1, 2, 4, 5, 26, 52, 78, 104]);
    plan.learningRates.forEach(({ learningRate }, i) => {
      expect(learningRate).toBeCloseTo(expected[i]!, 12);
    });
    expect(planRun(parseGRPOConfig(options), null)).toMatchObject({ totalUpdates: null, learningRates: [] });
  });
});

describe('estimateMemory', () => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice('cpu');
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });
  const shape = { hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 6, maxPositionEmbeddings: 256 };
  const prompt = 'abcdefgh'.repeat(2);

  it.each([
    [{ gradientCheckpointing: false, beta: 0.1 }, 'f32', 'f32'],
    [{ gradientCheckpointing: true, beta: 0 }, 'f32', 'f32'],
    [{ gradientCheckpointing: false, beta: 0 }, 'bf16', 'f32'],
    [{ gradientCheckpointing: false, beta: 0 }, 'bf16', 'bf16'],
    [{ gradientCheckpointing: true, beta: 0.1 }, 'bf16', 'bf16'],
  ] as const)('is near what an update takes with %j in %s, activations %s', async (options, dtype, activations) => {
    const own = await openDevice('cpu');
    const policy = tinyPolicy({ device: own, seed: 1, dtype, activations }, shape);
    const promptIds = policy.tokenizer.encode(prompt);
    const config = { ...options, perDeviceTrainBatchSize: 8, maxCompletionLength: 160, maxSteps: 1, numGenerations: 8 };
    try {
      await using trainer = await GRPOTrainer.create({ policy, ...config, learningRate: 1e-3 });
      const completionIds = new Int32Array(160).fill(5);
      await trainer.step(Array.from({ length: 8 }, (_, i) => ({ group: 0, promptIds, completionIds, reward: i })));
      const estimate = estimateMemory(policy.config, parseGRPOConfig(config), {
        dtype,
        activations,
        promptTokens: promptIds.length,
      });
      expect(estimate.weights).toBe(policy.parameters.count * (dtype === 'bf16' ? 2 : 4));
      const ratio = estimate.total / own.memory().peakBytes;
      expect(ratio).toBeGreaterThan(0.8);
      expect(ratio).toBeLessThan(1.3);
    } finally {
      policy.dispose();
      expect(own.memory().liveTensors).toBe(0);
      own.close();
    }
  });

  it('counts every parameter', () => {
    const policy = tinyPolicy({ device, seed: 1 });
    expect(parameterCount(policy.config)).toBe(policy.parameters.count);
    policy.dispose();
  });
});
