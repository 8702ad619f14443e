import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../../src/trainer/grpo-trainer.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
let other: Device;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  other = await openDevice('cpu', { threads: 1 });
});
afterAll(() => {
  for (const each of [device, other]) {
    expect(each.memory().liveTensors).toBe(0);
    each.close();
  }
});

const options = {
  beta: 0.2,
  maxSteps: 3,
  numGenerations: 4,
  perDeviceTrainBatchSize: 8,
  maxCompletionLength: 8,
  learningRate: 5e-3,
} satisfies Partial<GRPOTrainerOptions>;
const dataset = Array.from({ length: 8 }, (_, i) => ({ prompt: `${i}+${i}=` }));
const rewards: GRPOTrainerOptions['rewards'] = [
  (batch) => batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length),
];

describe('a reference policy on another device', () => {
  it.each([1, 2])('gives what one beside the policy gives, with %i uses of a generation', async (numIterations) => {
    const outcomes = [];
    for (const referenceDevice of [undefined, other]) {
      const policy = tinyPolicy({ device, seed: 2 });
      const parts = { policy, dataset, rewards, referenceDevice };
      await using trainer = await GRPOTrainer.create({ ...options, ...parts, numIterations });
      expect(other.memory().liveBytes > 0).toBe(referenceDevice !== undefined);
      const losses: number[] = [];
      const kls: number[] = [];
      for await (const report of trainer) {
        losses.push(report.loss);
        kls.push(report.metrics.kl!);
      }
      outcomes.push({ losses, kls, weights: await policy.parameters.flat.read() });
      policy.dispose();
    }
    expect(outcomes[1]).toEqual(outcomes[0]);
    expect(outcomes[0]!.kls.at(-1)).toBeGreaterThan(0);
  });

  it('serves rollouts that come from elsewhere too', async () => {
    const kls: number[] = [];
    for (const referenceDevice of [undefined, other]) {
      const policy = tinyPolicy({ device, seed: 2 });
      const trainer = await GRPOTrainer.create({ ...options, policy, referenceDevice });
      const promptIds = policy.tokenizer.encode('1+1=');
      const rollouts = [3, 4, 5, 6].map((id) => ({
        group: 0,
        promptIds,
        completionIds: new Int32Array([id, id + 1]),
        reward: id,
      }));
      await trainer.step(rollouts);
      await trainer.step(rollouts);
      kls.push((await trainer.step(rollouts)).metrics.kl!);
      await trainer.close();
      policy.dispose();
    }
    expect(kls[1]).toBe(kls[0]);
    expect(kls[0]).toBeGreaterThan(0);
  });

  it('is refused without a reference', async () => {
    const policy = tinyPolicy({ device, seed: 2 });
    const refused = GRPOTrainer.create({ ...options, beta: 0, policy, referenceDevice: other });
    await expect(refused).rejects.toThrow(/referenceDevice/);
    policy.dispose();
  });
});
