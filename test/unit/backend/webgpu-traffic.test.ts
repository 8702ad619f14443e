import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadDawn } from '../../../src/backend/dawn.js';
import { openWebGpuDevice, requestWebGpuAdapter } from '../../../src/backend/webgpu/open.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import type { Rollout } from '../../../src/trainer/rollout.js';
import { seenWith } from '../../devices.js';
import { tinyPolicy } from '../../tiny-model.js';

const adapter = await requestWebGpuAdapter({ gpu: await loadDawn(), software: true }).catch(() => null);

/** What goes through the API; `waits` counts the times that somebody began to wait while nobody else did. */
interface Traffic {
  submits: number;
  waits: number;
  shaders: number;
  buffers: number;
}

function countTraffic(device: GPUDevice, traffic: Traffic): GPUDevice {
  let waiting = 0;
  const { queue } = device;
  return seenWith(device, {
    queue: seenWith(queue, {
      submit(commands: Iterable<GPUCommandBuffer>) {
        traffic.submits++;
        return queue.submit(commands);
      },
    }),
    createShaderModule(descriptor) {
      traffic.shaders++;
      return device.createShaderModule(descriptor);
    },
    createBuffer(descriptor) {
      traffic.buffers++;
      const buffer = device.createBuffer(descriptor);
      const map = buffer.mapAsync.bind(buffer);
      buffer.mapAsync = (...range) => {
        if (waiting++ === 0) traffic.waits++;
        return map(...range).finally(() => waiting--);
      };
      return buffer;
    },
  });
}

describe.skipIf(!adapter)('the traffic of an update', () => {
  let own: GPUDevice;
  let device: Device;
  const traffic: Traffic = { submits: 0, waits: 0, shaders: 0, buffers: 0 };
  beforeAll(async () => {
    own = await (await requestWebGpuAdapter({ gpu: await loadDawn(), software: true })).requestDevice();
    device = await openWebGpuDevice({ gpuDevice: countTraffic(own, traffic) });
  });
  afterAll(() => {
    device.close();
    own.destroy();
  });

  async function traffics(layers: number): Promise<Traffic[]> {
    using policy = tinyPolicy({ device, seed: 3 }, { numHiddenLayers: layers });
    await using trainer = await GRPOTrainer.create({
      policy,
      rewards: [(batch) => batch.map(() => 0)],
      learningRate: 1e-3,
      lrSchedulerType: 'constant',
      seed: 5,
    });
    const rollouts = Array.from({ length: 8 }, (_, i): Rollout => {
      const completionIds = Int32Array.from({ length: 2 + (i % 3) }, (_, t) => (i + 5 * t) % 40);
      return { group: i % 2, promptIds: Int32Array.of(1, 2, i), completionIds, advantage: (i % 3) - 1 };
    });
    const counts: Traffic[] = [];
    for (let step = 0; step < 2; step++) {
      const before = { ...traffic };
      await trainer.step(rollouts);
      const spent = Object.entries(traffic).map(([key, count]) => [key, count - before[key as keyof Traffic]]);
      counts.push(Object.fromEntries(spent) as Traffic);
    }
    return counts;
  }

  test('is one wait and a few submissions, however many layers there are; shaders and buffers are used again', async () => {
    const [few, many] = [await traffics(1), await traffics(3)];
    for (const counts of [few, many]) {
      for (const { waits } of counts) expect(waits).toBe(1);
      expect(counts[0]!.buffers).toBeGreaterThan(0);
      expect(counts.at(-1)).toMatchObject({ shaders: 0, buffers: 0 });
    }
    expect(few[0]!.shaders).toBeGreaterThan(10);
    expect(many.at(-1)!.submits).toBe(few.at(-1)!.submits);
    expect(many.at(-1)!.submits).toBeLessThanOrEqual(8);
  }, 120_000);
});
