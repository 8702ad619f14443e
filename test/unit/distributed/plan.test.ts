import { describe, expect, it } from 'vitest';
import { estimateTime, estimateTraffic, h100Cluster, planDevices } from '../../../src/distributed/plan.js';
import type { ProcessGroup } from '../../../src/distributed/process-group.js';
import '../../../src/platform/node.js';
import { knownModel } from '../../../src/recipes/raif/models.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import { AdamW } from '../../../src/trainer/optimizer.js';
import { parseGRPOConfig } from '../../../src/trainer/parse-config.js';
import { estimateMemory } from '../../../src/trainer/plan.js';
import { inRanks } from '../../in-ranks.js';
import { tinyPolicy } from '../../tiny-model.js';

/** The header that ranks compare before a collective on the CPU. */
const headerBytes = 32;

/** Bytes that `work` makes a rank send, without headers. */
async function bytesOf(group: ProcessGroup, work: () => Promise<void> | void): Promise<number> {
  const sentUntil = async () => {
    await group.barrier();
    const { collectives, bytesSent } = group.statistics();
    return bytesSent - collectives * headerBytes * (group.worldSize - 1);
  };
  const start = await sentUntil();
  const barrier = (await sentUntil()) - start;
  const before = start + barrier;
  await work();
  return (await sentUntil()) - before - barrier;
}

describe('the plan of traffic is what ranks send', () => {
  it.each([
    [2, 0, 'f32'],
    [2, 1, 'f32'],
    [3, 2, 'f32'],
    [2, 1, 'bf16'],
    [2, 2, 'bf16'],
  ] as const)('for an update on %i ranks with zeroStage %i in %s', async (worldSize, zeroStage, dtype) => {
    const sent = await inRanks(worldSize, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 1, dtype });
      const config = parseGRPOConfig({ zeroStage }, 'test', { generates: false });
      const optimizer = new AdamW(policy.parameters, config, group);
      const measured = await bytesOf(group, () => optimizer.update(1e-3).dispose());
      // With a stage the ranks also exchange the norms of their parts.
      const norms = zeroStage > 0 ? 4 * (worldSize - 1) : 0;
      const input = { model: policy.config, config, dtype, activations: 'f32', promptTokens: 1, worldSize } as const;
      const plan = estimateTraffic(input);
      optimizer.dispose();
      policy.dispose();
      return { measured: measured - norms, planned: plan.gradients + plan.weights };
    });
    // Parts that are not equally long round by an element.
    const slack = 4 * 8 * worldSize;
    for (const { measured, planned } of sent) expect(Math.abs(measured - planned)).toBeLessThanOrEqual(slack);
    expect(sent[0]!.planned).toBeGreaterThan(50_000);
  });

  it('for the completions of a generation', async () => {
    const options = { maxCompletionLength: 64, perDeviceTrainBatchSize: 8, numGenerations: 4, maxSteps: 1 };
    const dataset = Array.from({ length: 8 }, (_, i) => ({ prompt: `${i}+${i}=` }));
    const rewards = [() => new Array(8).fill(0)];
    const ranks = await inRanks(2, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 1 });
      const trainer = await GRPOTrainer.create({
        policy,
        dataset,
        rewards: rewards.map((score) => (batch: readonly unknown[]) => score().slice(0, batch.length)),
        ...options,
        processGroup: group,
      });
      let tokens = 0;
      const measured = await bytesOf(group, async () => {
        const { report } = await trainer.train();
        tokens = report!.completions.reduce((sum, { completion }) => sum + completion.length + 1, 0);
      });
      await trainer.close();
      const config = parseGRPOConfig(options, 'test');
      const formats = { dtype: 'f32', activations: 'f32' } as const;
      const plan = estimateTraffic({ model: policy.config, config, ...formats, promptTokens: 4, worldSize: 2 });
      policy.dispose();
      return { sent: measured - plan.gradients, planned: plan.completions * (tokens / (2 * 8 * 64)) };
    });
    for (const { sent, planned } of ranks) {
      // Scores and metrics come on top.
      expect(sent / planned).toBeGreaterThan(0.7);
      expect(sent / planned).toBeLessThan(2);
    }
  });
});

describe('the plan of memory is what a rank takes', () => {
  it.each([0, 1, 2] as const)('on two ranks with zeroStage %i', async (zeroStage) => {
    const shape = { hiddenSize: 64, intermediateSize: 192, numHiddenLayers: 6, maxPositionEmbeddings: 256 };
    const config = { zeroStage, perDeviceTrainBatchSize: 4, maxCompletionLength: 96, maxSteps: 1, numGenerations: 8 };
    const ratios = await inRanks(2, async (device, group) => {
      const policy = tinyPolicy({ device, seed: 1 }, shape);
      const promptIds = policy.tokenizer.encode('abcdefgh');
      const trainer = await GRPOTrainer.create({ policy, ...config, learningRate: 1e-3, processGroup: group });
      const completionIds = new Int32Array(96).fill(5);
      const rollouts = Array.from({ length: 4 }, (_, i) => ({
        group: 0,
        promptIds,
        completionIds,
        reward: i + group.rank,
      }));
      await trainer.step(rollouts);
      const plan = { dtype: 'f32', activations: 'f32', promptTokens: promptIds.length, worldSize: 2 } as const;
      const estimate = estimateMemory(policy.config, parseGRPOConfig(config, 'test', { worldSize: 2 }), plan);
      await trainer.close();
      policy.dispose();
      return estimate.total / device.memory().peakBytes;
    });
    for (const ratio of ratios) {
      expect(ratio).toBeGreaterThan(0.75);
      expect(ratio).toBeLessThan(1.35);
    }
  });
});

describe('a plan for many devices', () => {
  const model = knownModel('Qwen2.5-7B-Instruct')!;
  const options = { perDeviceTrainBatchSize: 8, maxCompletionLength: 512, gradientCheckpointing: true };
  const config = parseGRPOConfig(options, 'test', { generates: false });
  const input = { model, config, dtype: 'bf16', activations: 'bf16', promptTokens: 512 } as const;
  const count = 7_615_616_512;

  it('has the state of the optimiser divided and the rest whole', () => {
    const plans = planDevices(input, { worldSizes: [1, 8, 1024], zeroStages: [0, 1, 2] });
    expect(plans.map(({ worldSize, zeroStage }) => [worldSize, zeroStage])).toEqual([
      [1, 0],
      ...[0, 1, 2].map((stage) => [8, stage]),
      ...[0, 1, 2].map((stage) => [1024, stage]),
    ]);
    expect(plans[0]!.memory.optimizer).toBe(12 * count);
    expect(plans[2]!.memory.optimizer).toBe((12 * count) / 8);
    expect(plans[5]!.memory.optimizer).toBeCloseTo((12 * count) / 1024, -3);
    for (const { memory, zeroStage } of plans) {
      expect(memory.weights).toBe(2 * count);
      if (zeroStage < 2) expect(memory.gradients).toBe(4 * count);
    }
    // A shard, and of the untied model the largest neighbours: the embedding and a layer.
    const embedding = 152_064 * 3584;
    const layer = 3 * 3584 * 18_944 + 2 * 3584 * (3584 + 512) + 3584 + 2 * 512 + 2 * 3584;
    expect(plans[3]!.memory.gradients).toBe(4 * (count / 8 + embedding + layer));
  });

  it('has half the activations, keys and values in bf16, and reads half of the latter', () => {
    const memory = (activations: 'f32' | 'bf16') => estimateMemory(model, config, { ...input, activations });
    const [halved, whole] = [memory('bf16'), memory('f32')];
    // 28 layers' inputs, two layers computed again and two rows more, of 8,192 tokens.
    const layer = 4 * 3584 + 2 * 3584 + 2 * 512 + 3 * 18_944;
    expect(whole.activations).toBe(4 * 8192 * (28 * 3584 + 2 * layer + 2 * 3584));
    expect(whole.cache).toBe(4 * 2 * 28 * 512 * 8 * 1024);
    for (const part of ['activations', 'cache'] as const) expect(halved[part]).toBe(whole[part] / 2);
    for (const part of ['weights', 'gradients', 'optimizer', 'logits'] as const) expect(halved[part]).toBe(whole[part]);
    for (const [activations, bytes] of [
      ['f32', 4],
      ['bf16', 2],
    ] as const) {
      const read = 2 * count + 8 * (512 + 256) * 2 * 28 * 512 * bytes;
      const { sampling } = estimateTime({ ...input, activations, worldSize: 1 });
      expect(sampling).toBeCloseTo((512 * read) / (3.35e12 * 0.6), 9);
    }
  });

  it('sends with stage 2 as much as the paper says: what a reduce-scatter and an all-gather send', () => {
    const [, second] = planDevices(input, { worldSizes: [1, 8], zeroStages: [2] });
    expect(second!.traffic.gradients).toBe((7 / 8) * 4 * count);
    expect(second!.traffic.weights).toBe((7 / 8) * 2 * count);
  });

  it('takes longer to exchange between machines than inside one, and less where computation hides it', () => {
    const at = (worldSize: number, overlap = 0) => estimateTime({ ...input, worldSize }, { ...h100Cluster, overlap });
    expect(at(1).communication).toBe(0);
    expect(at(1).efficiency).toBe(1);
    expect(at(8).communication).toBeGreaterThan((2 * 7 * 4 * count) / 8 / 450e9);
    expect(at(64).communication).toBeGreaterThan(at(8).communication);
    expect(at(1024).communication).toBeGreaterThan(at(64).communication);
    expect(at(64, 0.9).communication).toBeLessThan(0.2 * at(64).communication);
    expect(at(1024).sampling).toBe(at(1).sampling);
  });

  it('is refused for no device, or more than 1,024', () => {
    for (const count of [0, 1025, 1.5]) {
      expect(() => planDevices(input, { worldSizes: [count], zeroStages: [0] })).toThrow(/from 1 to 1024/);
    }
  });
});
