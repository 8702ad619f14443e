import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { GradientBuckets } from '../../../src/distributed/gradient-buckets.js';
import type { ProcessGroup } from '../../../src/distributed/process-group.js';
import { singleProcessGroup } from '../../../src/distributed/single-process-group.js';
import { GrpoError, InvalidArgumentError } from '../../../src/errors.js';
import { gradientOrder } from '../../../src/models/decoder.js';
import type { Device, Tensor } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

/** A group of `worldSize` ranks that only writes down what it is asked for: name, first element, elements. */
function recordingGroup(worldSize: number, rank: number, log: [string, number, number][]): ProcessGroup {
  const record = (name: string) => (tensor: Tensor) => {
    log.push([name, tensor.byteOffset / 4, tensor.size]);
    return { wait: () => {} };
  };
  const group = { worldSize, rank, allReduce: record('allReduce') };
  return group as unknown as ProcessGroup;
}

describe.each([true, false])('gradient buckets (tied embedding: %s)', (tieWordEmbeddings) => {
  const make = () => {
    const policy = tinyPolicy({ device, seed: 1 }, { tieWordEmbeddings });
    policy.parameters.enableGradients();
    return { policy, order: gradientOrder(policy.config) };
  };

  test('cover every gradient once, the last layer first and the embedding last', () => {
    const { policy, order } = make();
    const { count } = policy.parameters;
    const log: [string, number, number][] = [];
    const buckets = new GradientBuckets(recordingGroup(2, 0, log), policy.parameters, order, { bucketBytes: 4000 });
    buckets.finish();
    expect(log.map(([, offset, size]) => ({ offset, count: size }))).toEqual(buckets.buckets);
    const sorted = [...buckets.buckets].sort((a, b) => a.offset - b.offset);
    let end = 0;
    for (const bucket of sorted) {
      expect(bucket.offset).toBe(end);
      end += bucket.count;
    }
    expect(end).toBe(count);
    expect(buckets.buckets.at(-1)!.offset).toBe(0);
    policy.dispose();
  });

  test('start when their last gradient is complete, in the same order whoever finishes first', () => {
    const { policy, order } = make();
    const log: [string, number, number][] = [];
    const buckets = new GradientBuckets(recordingGroup(2, 0, log), policy.parameters, order, { bucketBytes: 4000 });
    const started = order.map((prefix) => {
      buckets.complete(prefix);
      return log.length;
    });
    expect(started[0]).toBeLessThan(started.at(-2)!);
    expect(started.at(-2)).toBeLessThan(started.at(-1)!);
    expect(started.at(-1)).toBe(buckets.buckets.length);
    // What has begun holds no weight that is still to come.
    const unfinished = policy.parameters.groupsOf(order.at(-1)!);
    for (const [, offset, size] of log.slice(0, started.at(-2))) {
      for (const later of unfinished) {
        expect(offset < later.offset + later.count && later.offset < offset + size).toBe(false);
      }
    }
    buckets.finish();
    const first = log.splice(0);
    for (const prefix of [...order].reverse()) buckets.complete(prefix);
    buckets.finish();
    expect(log).toEqual(first);
    policy.dispose();
  });

  test('are told by the backward pass, also with checkpointing', () => {
    const { policy, order } = make();
    for (const gradientCheckpointing of [false, true]) {
      const told: string[] = [];
      const scores = policy.score([{ promptIds: [3, 4], completionIds: [5, 6] }], {
        gradients: true,
        gradientCheckpointing,
        onGradients: (prefix) => told.push(prefix),
      });
      const ones = device.tensor([1, 1], [2]);
      scores.backward(ones);
      expect(told).toEqual(order);
      ones.dispose();
      scores.dispose();
    }
    policy.dispose();
  });
});

describe('gradient buckets', () => {
  test('change nothing on one rank', async () => {
    const policy = tinyPolicy({ device, seed: 1 });
    policy.parameters.enableGradients();
    const group = singleProcessGroup(device);
    const order = gradientOrder(policy.config);
    const buckets = new GradientBuckets(group, policy.parameters, order);
    const scores = policy.score([{ promptIds: [3], completionIds: [5] }], { gradients: true });
    const one = device.tensor([1], [1]);
    scores.backward(one);
    const before = await policy.parameters.gradients!.read();
    buckets.finish();
    expect(await policy.parameters.gradients!.read()).toEqual(before);
    one.dispose();
    scores.dispose();
    policy.dispose();
  });

  test('refuse what they cannot work with', () => {
    const policy = tinyPolicy({ device, seed: 1 });
    const group = singleProcessGroup(device);
    const order = gradientOrder(policy.config);
    const make = (given: readonly string[], options = {}) =>
      new GradientBuckets(group, policy.parameters, given, options);
    expect(() => make(order.slice(1))).toThrow(InvalidArgumentError);
    expect(() => make(order, { bucketBytes: 1 })).toThrow('bucketBytes');
    expect(() => make(order).complete('model.layers.9.')).toThrow('prefix');
    expect(() => make(order).finish()).toThrow(GrpoError);
    policy.dispose();
  });
});
