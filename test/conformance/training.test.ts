import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDevice } from '../../src/backend/open-device.js';
import '../../src/platform/node.js';
import type { RewardFunction } from '../../src/rewards/reward.js';
import type { Device } from '../../src/tensor.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../src/trainer/grpo-trainer.js';
import { SFTTrainer } from '../../src/trainer/sft-trainer.js';
import { testDevices } from '../devices.js';
import { tinyPolicy } from '../tiny-model.js';

const updates = 10;
const prompts = Array.from({ length: 8 }, (_, i) => ({ prompt: `${i}+2=` }));
const demonstrations = prompts.map((row, i) => ({ ...row, completion: `${i + 2}` }));

/** Losses and norms of the gradient of ten updates, and the completions that they are on, which the model draws. */
async function trainWithGRPO(device: Device, options: Partial<GRPOTrainerOptions> = {}) {
  const policy = tinyPolicy({ device, seed: 3 });
  const drawn: string[] = [];
  const reward: RewardFunction = (batch) =>
    batch.map(({ completion }) => {
      drawn.push(completion);
      return [...completion].filter((character) => character < 'a').length / 8;
    });
  try {
    await using trainer = await GRPOTrainer.create({
      policy,
      dataset: prompts,
      rewards: [reward],
      maxSteps: updates,
      numGenerations: 4,
      perDeviceTrainBatchSize: 8,
      maxCompletionLength: 6,
      learningRate: 2e-3,
      lrSchedulerType: 'constant',
      seed: 5,
      ...options,
    });
    const reports = [];
    for await (const { loss, gradNorm } of trainer) reports.push({ loss, gradNorm });
    const [completions] = await policy.generate(['7+2='], { maxNewTokens: 8, temperature: 0 });
    return { reports, drawn, text: completions![0]!.text };
  } finally {
    policy.dispose();
  }
}

async function cloneDemonstrations(device: Device, dtype: 'f32' | 'bf16', gradientCheckpointing: boolean) {
  const policy = tinyPolicy({ device, seed: 3, dtype });
  try {
    await using trainer = await SFTTrainer.create({
      policy,
      dataset: demonstrations,
      maxSteps: updates,
      perDeviceTrainBatchSize: 4,
      learningRate: 2e-3,
      gradientCheckpointing,
    });
    const losses: number[] = [];
    for await (const { loss } of trainer) losses.push(loss);
    return losses;
  } finally {
    policy.dispose();
  }
}

const devices = (await testDevices()).filter(({ name }) => !name.startsWith('cpu'));

describe.each(devices)('training on $name beside training on the CPU', ({ open }) => {
  let device: Device;
  let cpu: Device;
  beforeAll(async () => {
    device = await open();
    cpu = await openDevice('cpu', { matmul: 'builtin' });
  });
  afterAll(() => {
    for (const one of [device, cpu]) {
      expect(one.memory().liveTensors).toBe(0);
      one.close();
    }
  });

  test('GRPO has the same losses and completions', async () => {
    const [actual, truth] = [await trainWithGRPO(device), await trainWithGRPO(cpu)];
    expect(actual.reports).toHaveLength(updates);
    actual.reports.forEach(({ loss, gradNorm }, i) => {
      expect(Math.abs(loss - truth.reports[i]!.loss)).toBeLessThan(1e-4);
      expect(Math.abs(gradNorm - truth.reports[i]!.gradNorm)).toBeLessThan(1e-3 * truth.reports[i]!.gradNorm + 1e-6);
    });
    expect(truth.reports.filter(({ gradNorm }) => gradNorm > 0.01).length).toBeGreaterThan(updates / 2);
    expect(actual.drawn).toEqual(truth.drawn);
    expect(actual.text).toBe(truth.text);
    const other = await trainWithGRPO(cpu, { seed: 6 });
    expect(other.reports.some(({ loss }, i) => Math.abs(loss - truth.reports[i]!.loss) > 1e-3)).toBe(true);
  });

  test('GRPO on the tokens of highest entropy has the same losses', async () => {
    const cut = { perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2, maxSteps: 3 };
    const options = { ...cut, topEntropyQuantile: 0.4, entropyCoefficient: 0.05 };
    const [actual, truth] = [await trainWithGRPO(device, options), await trainWithGRPO(cpu, options)];
    expect(actual.drawn).toEqual(truth.drawn);
    expect(actual.reports).toHaveLength(3);
    actual.reports.forEach(({ loss, gradNorm }, i) => {
      expect(Math.abs(loss - truth.reports[i]!.loss)).toBeLessThan(1e-4);
      expect(Math.abs(gradNorm - truth.reports[i]!.gradNorm)).toBeLessThan(1e-3 * truth.reports[i]!.gradNorm);
    });
    const other = await trainWithGRPO(cpu, { ...options, topEntropyQuantile: 0.45 });
    expect(Math.abs(other.reports[0]!.gradNorm / truth.reports[0]!.gradNorm - 1)).toBeGreaterThan(1e-2);
  });

  test.each([false, true])('cloning has the same losses, gradient checkpointing %s', async (checkpointing) => {
    const actual = await cloneDemonstrations(device, 'f32', checkpointing);
    const truth = await cloneDemonstrations(cpu, 'f32', checkpointing);
    actual.forEach((loss, i) => {
      expect(Math.abs(loss - truth[i]!)).toBeLessThan(1e-4);
    });
    expect(actual.at(-1)).toBeLessThan(0.9 * actual[0]!);
  });

  test('cloning with bf16 weights has the same losses up to bf16', async () => {
    const [actual, truth] = [
      await cloneDemonstrations(device, 'bf16', false),
      await cloneDemonstrations(cpu, 'bf16', false),
    ];
    actual.forEach((loss, i) => {
      expect(Math.abs(loss - truth[i]!)).toBeLessThan(2e-2);
    });
    expect(actual.at(-1)).toBeLessThan(0.9 * actual[0]!);
  });
});
