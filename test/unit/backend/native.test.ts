import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { Device } from '../../../src/tensor.js';

let device: Device;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
});

afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

describe('a tensor', () => {
  test('gives back what was written', async () => {
    using x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    expect(await x.read()).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
  });

  test('is filled, copied and gathered by the kernels', async () => {
    using x = device.tensor([1, 2, 3, 4, 5, 6], [3, 2]);
    using indices = device.tensor([2, 0], [2], 'i32');
    using rows = device.empty([2, 2]);
    using half = device.zeros([2, 2], 'bf16');
    device.run('gatherRows', { in: x, indices, out: rows });
    device.run('copy', { in: rows, out: half });
    device.run('fill', { out: rows, value: 7 });
    expect(await half.read()).toEqual(Float32Array.of(5, 6, 1, 2));
    expect(await rows.read()).toEqual(Float32Array.of(7, 7, 7, 7));
  });
});
