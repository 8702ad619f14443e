import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import type { Device, Tensor } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { embedding, embeddingBackward } from '../reference/embedding.js';
import { at, type Matrix, matrix } from '../reference/matrix.js';
import { rmsNorm, rmsNormBackward } from '../reference/rms-norm.js';
import { rope } from '../reference/rope.js';
import { swiglu, swigluBackward } from '../reference/swiglu.js';
import { expectClose, floatTypes, randomMatrix, Tensors, tolerance } from './decoder-harness.js';

const sizes = [
  [0, 4],
  [1, 1],
  [7, 33],
  [33, 7],
  [3, 1290],
] as const;

describe.each(await testDevices())('the layers of a decoder on $name', ({ open }) => {
  let device: Device;
  let t: Tensors;

  beforeAll(async () => {
    device = await open();
  });
  afterEach(() => {
    t.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  describe.each(floatTypes)('%s', (dtype) => {
    const limit = tolerance[dtype];

    test.each(sizes)('add [%i, %i]', async (rows, columns) => {
      t = new Tensors(device, 2);
      const [a, b] = [randomMatrix(rows, columns, 1, dtype), randomMatrix(rows, columns, 2, dtype)];
      const truth = matrix(rows, columns, (r, c) => 0.5 * at(a, r, c) - 2 * at(b, r, c));
      const [x, y, out] = [t.put(a, dtype), t.put(b, dtype), t.empty(rows, columns, dtype)];
      device.run('add', { a: x, b: y, out, alpha: 0.5, beta: -2 });
      expectClose(await t.read(out), truth, limit);
      device.run('add', { a: x, b: y, out: x, alpha: 0.5, beta: -2 });
      device.run('add', { a: t.put(a, dtype), b: y, out: y, alpha: 0.5, beta: -2 });
      expect(await t.read(x)).toEqual(await t.read(out));
      expect(await t.read(y)).toEqual(await t.read(out));
    });

    test.each(sizes)('swiglu [%i, %i], forward and backward', async (rows, columns) => {
      t = new Tensors(device, 1);
      const [gate, up, gradOut] = [1, 2, 3].map((seed) => randomMatrix(rows, columns, seed, dtype)) as [
        Matrix,
        Matrix,
        Matrix,
      ];
      const [out, gradGate, gradUp] = [1, 2, 3].map(() => t.empty(rows, columns, dtype));
      const inputs = { gate: t.put(gate, dtype), up: t.put(up, dtype) };
      device.run('swiglu', { ...inputs, out: out! });
      device.run('swigluBackward', { ...inputs, gradOut: t.put(gradOut, dtype), gradGate: gradGate!, gradUp: gradUp! });
      expectClose(await t.read(out!), swiglu(gate, up), limit);
      const truth = swigluBackward(gate, up, gradOut);
      expectClose(await t.read(gradGate!), truth.gradGate, limit);
      expectClose(await t.read(gradUp!), truth.gradUp, limit);
    });

    test.each([
      [0, 8, 8],
      [1, 1, 1],
      [7, 33, 33],
      [33, 129, 129],
      [9, 60, 20],
      [300, 64, 16],
    ])('rmsNorm [%i, %i] in groups of %i, forward and backward', async (rows, columns, group) => {
      t = new Tensors(device, 3);
      const epsilon = 1e-3;
      const [input, gradOut, before] = [1, 2, 3].map((seed) => randomMatrix(rows, columns, seed, dtype)) as [
        Matrix,
        Matrix,
        Matrix,
      ];
      const weight = randomMatrix(1, group, 4, dtype);
      const out = t.empty(rows, columns, dtype);
      const inverseRms = t.vector((rows * columns) / group);
      const inputs = { in: t.put(input, dtype), weight: t.row(weight.data, dtype) };
      device.run('rmsNorm', { ...inputs, out, inverseRms, epsilon });
      const truth = rmsNorm(input, weight, epsilon);
      expectClose(await t.read(out), truth.out, limit);
      expectClose(await t.read(inverseRms), truth.inverseRms, 1e-6);

      const gradWeight = t.vector(group, 0.25);
      const backward = { ...inputs, inverseRms, gradOut: t.put(gradOut, dtype) };
      const [gradIn, added] = [t.empty(rows, columns, dtype), t.put(before, dtype)];
      device.run('rmsNormBackward', { ...backward, gradIn, gradWeight, accumulate: 0 });
      device.run('rmsNormBackward', { ...backward, gradIn: added, accumulate: 1 });
      const grads = rmsNormBackward(input, weight, gradOut, epsilon);
      // With one element a group the gradient is what epsilon leaves of a difference of equals.
      const cancelled = group === 1 ? 1e-3 : 0;
      expectClose(await t.read(gradIn), grads.gradIn, Math.max(limit, 4e-6, cancelled));
      expectClose(
        await t.read(added),
        matrix(rows, columns, (r, c) => at(grads.gradIn, r, c) + at(before, r, c)),
        Math.max(limit, 4e-6),
      );
      expectClose(
        await t.read(gradWeight),
        matrix(1, group, (_, c) => grads.gradWeight.data[c]! + 0.25),
        1e-5,
      );
    });

    test.each([2, 6, 32, 66])('rope with heads of %i, forward and backward, also in place', async (headDim) => {
      t = new Tensors(device, 2);
      const frequencies = Float32Array.from({ length: headDim / 2 }, (_, i) => 10000 ** ((-2 * i) / headDim));
      const positions = [0, 1, 17, 4095, 131071];
      const input = randomMatrix(positions.length, 3 * headDim, 1, dtype);
      const args = { positions: t.row(positions, 'i32'), inverseFrequencies: t.row(frequencies), headDim };
      for (const backward of [false, true]) {
        const [x, out] = [t.put(input, dtype), t.empty(positions.length, 3 * headDim, dtype)];
        device.run('rope', { ...args, in: x, out, backward: Number(backward) });
        expectClose(await t.read(out), rope(input, positions, frequencies, { backward }), limit);
        device.run('rope', { ...args, in: x, out: x, backward: Number(backward) });
        expect(await t.read(x)).toEqual(await t.read(out));
      }
    });

    // CUDA reads and writes rows in 16 bytes where it can.
    test.each([
      [5, 24, 8],
      [2, 264, 264],
      [3, 896, 896],
      [2, 2056, 2056],
    ])('rows of [%i, %i] that lie close have the bits of rows that do not', async (rows, columns, group) => {
      const [input, other] = [randomMatrix(rows, columns, 1, dtype), randomMatrix(rows, columns, 2, dtype)];
      const weight = randomMatrix(1, group, 3, dtype);
      const ids = Array.from({ length: rows }, (_, i) => (i + 1) % rows);
      const frequencies = Float32Array.from({ length: group / 2 }, (_, i) => 1 / (1 + i));
      const results: Float32Array[][] = [];
      for (const gap of [0, 3]) {
        t = new Tensors(device, gap);
        const [x, y, w] = [t.put(input, dtype), t.put(other, dtype), t.row(weight.data, dtype)];
        const [sum, activated, normed, turned, looked] = Array.from({ length: 5 }, () =>
          t.empty(rows, columns, dtype),
        ) as [Tensor, Tensor, Tensor, Tensor, Tensor];
        const inverseRms = t.vector((rows * columns) / group);
        device.run('add', { a: x, b: y, out: sum, alpha: 0.5, beta: 2 });
        device.run('swiglu', { gate: x, up: y, out: activated });
        device.run('rmsNorm', { in: x, weight: w, out: normed, inverseRms, epsilon: 1e-6 });
        const positions = t.row(ids, 'i32');
        const angles = { positions, inverseFrequencies: t.row(frequencies), headDim: group };
        device.run('rope', { ...angles, in: x, out: turned, backward: 0 });
        device.run('embedding', { table: x, ids: positions, out: looked });
        const [gradIn, gradWeight, sums] = [t.put(other, dtype), t.vector(group, 0), t.vector(columns, 0)];
        device.run('columnSum', { in: y, out: sums });
        device.run('rmsNormBackward', { in: x, weight: w, inverseRms, gradOut: y, gradIn, gradWeight, accumulate: 1 });
        expectClose(await t.read(normed), rmsNorm(input, weight, 1e-6).out, limit);
        expectClose(await t.read(turned), rope(input, ids, frequencies), limit);
        const written = [sum, activated, normed, turned, looked, inverseRms, gradIn, gradWeight, sums];
        results.push(await Promise.all(written.map((x) => t.read(x))));
        t.dispose();
      }
      expect(results[1]).toEqual(results[0]);
    });

    test('embedding, forward and backward', async () => {
      t = new Tensors(device, 4);
      const ids = [3, 0, 6, 3, 3];
      const [table, gradOut] = [randomMatrix(7, 21, 1, dtype), randomMatrix(5, 21, 2, dtype)];
      const out = t.empty(5, 21, dtype);
      const gradTable = t.empty(7, 21);
      device.run('embedding', { table: t.put(table, dtype), ids: t.row(ids, 'i32'), out });
      expect(await t.read(out)).toEqual(Float32Array.from(embedding(table, ids).data));
      device.run('fill', { out: gradTable, value: 0 });
      for (let i = 0; i < 2; i++) {
        device.run('embeddingBackward', { gradOut: t.put(gradOut, dtype), ids: t.row(ids, 'i32'), gradTable });
      }
      const once = embeddingBackward(gradOut, ids, 7);
      expectClose(
        await t.read(gradTable),
        matrix(7, 21, (r, c) => 2 * at(once, r, c)),
        1e-6,
      );
    });
  });

  test('embeddingBackward of more ids than warps that share a column on CUDA', async () => {
    t = new Tensors(device);
    const ids = Array.from({ length: 300 }, (_, i) => (i * i * 7) % 150);
    const gradOut = randomMatrix(ids.length, 37, 1);
    const gradTable = t.empty(150, 37);
    device.run('fill', { out: gradTable, value: 0 });
    device.run('embeddingBackward', { gradOut: t.put(gradOut), ids: t.row(ids, 'i32'), gradTable });
    expectClose(await t.read(gradTable), embeddingBackward(gradOut, ids, 150), 1e-6);
  });

  test('columnSum over rows in many chunks', async () => {
    t = new Tensors(device);
    for (const [rows, columns] of [
      [129, 5],
      [1000, 264],
    ] as const) {
      const input = randomMatrix(rows, columns, 1);
      const out = t.vector(columns, 0.5);
      device.run('columnSum', { in: t.put(input), out });
      const sum = (c: number) => Array.from({ length: rows }, (_, r) => at(input, r, c)).reduce((a, b) => a + b, 0.5);
      expectClose(
        await t.read(out),
        matrix(1, columns, (_, c) => sum(c)),
        2e-6,
      );
    }
  });

  test('add works on tensors of any rank', async () => {
    t = new Tensors(device);
    const x = t.row([1, 2, 3]);
    device.run('add', { a: x, b: x, out: x, alpha: 1, beta: 2 });
    expect(Array.from(await t.read(x))).toEqual([3, 6, 9]);
    const y = device.tensor([1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 2]);
    device.run('add', { a: y, b: y, out: y, alpha: 1, beta: 1 });
    expect(Array.from(await y.read())).toEqual([2, 4, 6, 8, 10, 12, 14, 16]);
    y.dispose();
  });

  test('swiglu of large gates stays finite', async () => {
    t = new Tensors(device);
    const gate = { rows: 1, columns: 4, data: Float64Array.of(-1e4, -200, 200, 1e4) };
    const ones = matrix(1, 4, () => 1);
    const [out, gradGate, gradUp] = [t.empty(1, 4), t.empty(1, 4), t.empty(1, 4)];
    const inputs = { gate: t.put(gate), up: t.put(ones) };
    device.run('swiglu', { ...inputs, out });
    device.run('swigluBackward', { ...inputs, gradOut: t.put(ones), gradGate, gradUp });
    expect(Array.from(await t.read(out), (x) => x + 0)).toEqual([0, 0, 200, 1e4]);
    expect(Array.from(await t.read(gradGate), (x) => x + 0)).toEqual([0, 0, 1, 1]);
    expect(Array.from(await t.read(gradUp), (x) => x + 0)).toEqual([0, 0, 200, 1e4]);
  });

  test('ids outside the table are refused before anything is written', async () => {
    for (const bad of [-1, 4]) {
      t = new Tensors(device);
      const out = t.empty(2, 3);
      device.run('embedding', { table: t.empty(4, 3), ids: t.row([0, bad], 'i32'), out });
      await expect(t.read(out)).rejects.toThrow(new RegExp(`ids\\[1\\].*0 to 3.*${bad}`));
      device.run('embeddingBackward', {
        gradOut: t.empty(2, 3),
        ids: t.row([0, bad], 'i32'),
        gradTable: t.empty(4, 3),
      });
      t.dispose();
    }
  });

  test('heads and groups that do not fit are refused', async () => {
    t = new Tensors(device);
    const out = t.empty(1, 6);
    device.run('rmsNorm', { in: t.empty(1, 6), weight: t.vector(4), out, epsilon: 1e-6 });
    await expect(t.read(out)).rejects.toThrow(KernelError);
    const rotated = t.empty(1, 6);
    const args = { in: t.empty(1, 6), positions: t.row([0], 'i32'), out: rotated, backward: 0 };
    device.run('rope', { ...args, inverseFrequencies: t.vector(2), headDim: 4 });
    await expect(t.read(rotated)).rejects.toThrow(/headDim 4/);
  });

  test('the number of threads changes no bit of a sum over rows', async () => {
    const results: Float32Array[][] = [];
    for (const threads of [1, 2, 3]) {
      const other = await open(threads);
      t = new Tensors(other);
      const [rows, columns] = [700, 96];
      const x = t.put(randomMatrix(rows, columns, 1));
      const gradOut = t.put(randomMatrix(rows, columns, 2));
      const [out, gradIn] = [t.empty(rows, columns), t.empty(rows, columns)];
      const [inverseRms, gradWeight, sums] = [t.vector(rows), t.vector(columns, 0), t.vector(columns, 0)];
      const [gradTable, norm] = [t.empty(5, columns), t.vector(1)];
      other.run('rmsNorm', { in: x, weight: t.vector(columns, 1), out, inverseRms, epsilon: 1e-6 });
      const inputs = { in: x, weight: t.vector(columns, 1), inverseRms, gradOut };
      other.run('rmsNormBackward', { ...inputs, gradIn, gradWeight, accumulate: 0 });
      other.run('columnSum', { in: gradOut, out: sums });
      const ids = Array.from({ length: rows }, (_, i) => (i * i) % 5);
      other.run('embeddingBackward', { gradOut, ids: t.row(ids, 'i32'), gradTable });
      other.run('globalNorm', { in: x.view([rows * columns]), norm });
      results.push(await Promise.all([gradWeight, sums, gradTable, norm].map((tensor) => t.read(tensor))));
      t.dispose();
      other.close();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });
});
