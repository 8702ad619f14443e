import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { columnSum, matmul } from '../reference/matmul.js';
import { at, type Matrix, matrix, transposed } from '../reference/matrix.js';
import { expectClose, floatTypes, randomMatrix, Tensors, tolerance } from './decoder-harness.js';

/** The error of a float32 sum of k products, relative to its result, grows with the root of k. */
const sumTolerance = (k: number) => 1e-6 * Math.max(1, Math.sqrt(k));

/** Sums of products of such matrices do not cancel, so that their relative error is that of rounding. */
function positive(rows: number, columns: number): Matrix {
  const m = randomMatrix(rows, columns, rows + 50 * columns);
  return { ...m, data: m.data.map(Math.abs) };
}

describe.each(await testDevices({ features: true }))('matmul on $name', ({ name, open }) => {
  let device: Device;
  let t: Tensors;

  beforeAll(async () => {
    device = await open();
  });
  afterEach(() => {
    t?.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  const run = (a: Matrix, b: Matrix, transposeA = 0, transposeB = 0) => {
    const out = t.empty(transposeA ? a.columns : a.rows, transposeB ? b.rows : b.columns);
    device.run('matmul', { a: t.put(a), b: t.put(b), out, transposeA, transposeB, accumulate: 0 });
    return out;
  };

  test.each([
    [1, 1, 1],
    [1, 33, 7],
    [7, 129, 33],
    [33, 1, 129],
    [129, 65, 300],
    [15, 17, 257],
    [230, 300, 64],
  ])('[%i x %i] over k = %i, every way to store the operands', async (m, n, k) => {
    t = new Tensors(device, 3);
    const a = randomMatrix(m, k, 1);
    const b = randomMatrix(k, n, 2);
    const truth = matmul(a, b);
    for (const transposeA of [0, 1]) {
      for (const transposeB of [0, 1]) {
        const out = run(transposeA ? transposed(a) : a, transposeB ? transposed(b) : b, transposeA, transposeB);
        expectClose(await t.read(out), truth, sumTolerance(k), true);
      }
    }
  });

  test.each(floatTypes)('%s operands and results, with bias, on top of what was there', async (dtype) => {
    t = new Tensors(device, 5);
    const [a, b] = [randomMatrix(9, 40, 1, dtype), randomMatrix(35, 40, 2, dtype)];
    const [bias, before] = [randomMatrix(1, 35, 3, dtype), randomMatrix(9, 35, 4, dtype)];
    const product = matmul(a, b, { transposeB: true, bias });
    const out = t.put(before, dtype);
    const args = {
      a: t.put(a, dtype),
      b: t.put(b, dtype),
      bias: t.row(bias.data, dtype),
      transposeA: 0,
      transposeB: 1,
    };
    device.run('matmul', { ...args, out, accumulate: 1 });
    const sum = matrix(9, 35, (r, c) => at(product, r, c) + at(before, r, c));
    expectClose(await t.read(out), sum, Math.max(tolerance[dtype], sumTolerance(40)));
    device.run('matmul', { ...args, out, accumulate: 0 });
    expectClose(await t.read(out), product, Math.max(tolerance[dtype], sumTolerance(40)));
  });

  test('operands and results of different dtypes', async () => {
    t = new Tensors(device);
    const [a, b] = [randomMatrix(6, 20, 1, 'f16'), randomMatrix(20, 18, 2, 'bf16')];
    const out = t.empty(6, 18);
    device.run('matmul', { a: t.put(a, 'f16'), b: t.put(b, 'bf16'), out, transposeA: 0, transposeB: 0, accumulate: 0 });
    expectClose(await t.read(out), matmul(a, b), sumTolerance(20));
  });

  test('any shape', async () => {
    const size = fc.integer({ min: 1, max: 40 });
    await fc.assert(
      fc.asyncProperty(size, size, size, fc.boolean(), fc.boolean(), async (m, n, k, transposeA, transposeB) => {
        t = new Tensors(device);
        const a = positive(transposeA ? k : m, transposeA ? m : k);
        const b = positive(transposeB ? n : k, transposeB ? k : n);
        const out = await t.read(run(a, b, Number(transposeA), Number(transposeB)));
        t.dispose();
        expectClose(out, matmul(a, b, { transposeA, transposeB }), sumTolerance(k));
      }),
      { numRuns: 15 },
    );
  });

  test('no rows, no columns, nothing to sum over', async () => {
    t = new Tensors(device);
    expect(await t.read(run(matrix(0, 4), matrix(4, 3)))).toHaveLength(0);
    expect(await t.read(run(matrix(4, 3), matrix(3, 0)))).toHaveLength(0);
    expect(Array.from(await t.read(run(matrix(2, 0), matrix(0, 2))))).toEqual([0, 0, 0, 0]);
  });

  test('operands that do not fit are refused', async () => {
    t = new Tensors(device);
    const args = { transposeA: 0, transposeB: 0, accumulate: 0 };
    const [first, second] = [t.empty(2, 2), t.empty(2, 2)];
    device.run('matmul', { a: t.empty(2, 3), b: t.empty(4, 2), out: first, ...args });
    await expect(t.read(first)).rejects.toThrow(KernelError);
    device.run('matmul', { a: t.empty(2, 3), b: t.empty(3, 2), out: second, ...args, transposeA: 1 });
    await expect(t.read(second)).rejects.toThrow(/matmul: expected.*\[2,k\].*received \[3,2\], \[3,2\]/);
  });

  describe.runIf(name.includes('builtin'))('the built-in product', () => {
    test.each([0, 1])('gives a row the same bits whatever the other rows, transposeB %i', async (transposeB) => {
      t = new Tensors(device);
      const b = t.put(transposeB ? randomMatrix(530, 515, 2) : randomMatrix(515, 530, 2));
      const rows = randomMatrix(37, 515, 1);
      const product = async (first: number, count: number) => {
        const a = t.put({ rows: count, columns: 515, data: rows.data.slice(first * 515, (first + count) * 515) });
        const out = t.empty(count, 530);
        device.run('matmul', { a, b, out, transposeA: 0, transposeB, accumulate: 0 });
        return t.read(out);
      };
      const all = await product(0, 37);
      for (const row of [0, 13, 14, 36]) expect(await product(row, 1)).toEqual(all.slice(row * 530, (row + 1) * 530));
      expect(await product(5, 20)).toEqual(all.slice(5 * 530, 25 * 530));
    });

    test.each([0, 1])('changes no bit with the number of threads, transposeB %i', async (transposeB) => {
      const results: Float32Array[] = [];
      for (const threads of [1, 2, 3]) {
        const other = await open(threads);
        t = new Tensors(other);
        const out = t.empty(100, 200);
        const b = t.put(transposeB ? randomMatrix(200, 300, 2) : randomMatrix(300, 200, 2));
        other.run('matmul', { a: t.put(randomMatrix(100, 300, 1)), b, out, transposeA: 0, transposeB, accumulate: 0 });
        results.push(await t.read(out));
        t.dispose();
        other.close();
      }
      expect(results[1]).toEqual(results[0]);
      expect(results[2]).toEqual(results[0]);
    });
  });

  test('a product run twice has the same bits', async () => {
    t = new Tensors(device);
    const [a, b] = [randomMatrix(50, 70, 1), randomMatrix(70, 90, 2)];
    expect(await t.read(run(a, b))).toEqual(await t.read(run(a, b)));
  });

  test.each(floatTypes)('columnSum of %s adds to what was there', async (dtype) => {
    t = new Tensors(device, 2);
    for (const [rows, columns] of [
      [0, 3],
      [1, 1],
      [7, 33],
      [129, 1100],
    ] as const) {
      const input = randomMatrix(rows, columns, 1, dtype);
      const out = t.vector(columns, 0.5);
      device.run('columnSum', { in: t.put(input, dtype), out });
      const sums = columnSum(input);
      expectClose(
        await t.read(out),
        matrix(1, columns, (_, c) => sums.data[c]! + 0.5),
        sumTolerance(rows),
      );
    }
  });
});
