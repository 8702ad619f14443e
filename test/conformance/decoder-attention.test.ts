import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { attention, attentionBackward } from '../reference/attention.js';
import type { Matrix } from '../reference/matrix.js';
import { expectClose, type FloatType, floatTypes, randomMatrix, Tensors, tolerance } from './decoder-harness.js';

const shapes = [
  { lengths: [1], headDim: 1, heads: 1, keyHeads: 1 },
  { lengths: [7, 0, 33, 1], headDim: 8, heads: 4, keyHeads: 2 },
  { lengths: [5, 140], headDim: 20, heads: 5, keyHeads: 1 },
  { lengths: [18, 3], headDim: 64, heads: 2, keyHeads: 2 },
  { lengths: [], headDim: 4, heads: 1, keyHeads: 1 },
];

describe.each(await testDevices())('attention on $name', ({ open }) => {
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

  interface Batch {
    offsets: number[];
    queries: Matrix;
    keys: Matrix;
    values: Matrix;
    gradOut: Matrix;
    headDim: number;
    scale: number;
  }

  function batch({ lengths, headDim, heads, keyHeads }: (typeof shapes)[0], dtype: FloatType = 'f32'): Batch {
    const offsets = [0];
    for (const length of lengths) offsets.push(offsets.at(-1)! + length);
    const rows = offsets.at(-1)!;
    const random = (columns: number, seed: number) => randomMatrix(rows, columns * headDim, seed, dtype);
    const [queries, keys, values, gradOut] = [
      random(heads, 1),
      random(keyHeads, 2),
      random(keyHeads, 3),
      random(heads, 4),
    ];
    return { offsets, queries, keys, values, gradOut, headDim, scale: 1 / Math.sqrt(headDim) };
  }

  function forward(b: Batch, dtype: FloatType = 'f32') {
    const { rows, columns } = b.queries;
    const inputs = {
      queries: t.put(b.queries, dtype),
      keys: t.put(b.keys, dtype),
      values: t.put(b.values, dtype),
      sequenceOffsets: t.row(b.offsets, 'i32'),
      headDim: b.headDim,
      scale: b.scale,
      maxLength: Math.max(0, ...b.offsets.slice(1).map((end, i) => end - b.offsets[i]!)),
    };
    const [out, logSumExp] = [t.empty(rows, columns, dtype), t.empty(rows, columns / b.headDim)];
    t.device.run('attention', { ...inputs, out, logSumExp });
    return { inputs, out, logSumExp };
  }

  function backward(b: Batch, dtype: FloatType = 'f32') {
    const { inputs, out, logSumExp } = forward(b, dtype);
    const gradQueries = t.empty(b.queries.rows, b.queries.columns, dtype);
    const gradKeys = t.empty(b.keys.rows, b.keys.columns, dtype);
    const gradValues = t.empty(b.keys.rows, b.keys.columns, dtype);
    const gradOut = t.put(b.gradOut, dtype);
    t.device.run('attentionBackward', { ...inputs, out, logSumExp, gradOut, gradQueries, gradKeys, gradValues });
    return { gradQueries, gradKeys, gradValues };
  }

  describe.each(floatTypes)('%s', (dtype) => {
    test.each(shapes)('sequences of $lengths, $heads heads of $headDim on $keyHeads', async (shape) => {
      t = new Tensors(device, 3);
      const b = batch(shape, dtype);
      const truth = attention(b.queries, b.keys, b.values, b.offsets, b);
      const { out, logSumExp } = forward(b, dtype);
      expectClose(await t.read(out), truth.out, Math.max(tolerance[dtype], 4e-6));
      expectClose(await t.read(logSumExp), truth.logSumExp, 4e-6);
    });

    test.each(shapes)('gradients of sequences of $lengths, $heads heads of $headDim on $keyHeads', async (shape) => {
      t = new Tensors(device, 1);
      const b = batch(shape, dtype);
      const truth = attentionBackward(b.queries, b.keys, b.values, b.offsets, b.gradOut, b);
      const { gradQueries, gradKeys, gradValues } = backward(b, dtype);
      // The first row of a sequence has one key and so no gradient: its terms cancel up to rounding.
      const limit = { f32: 4e-6, bf16: 2 ** -7, f16: 2 ** -10 }[dtype];
      expectClose(await t.read(gradQueries), truth.gradQueries, limit, true);
      expectClose(await t.read(gradKeys), truth.gradKeys, limit, true);
      expectClose(await t.read(gradValues), truth.gradValues, limit);
    });
  });

  test('any batch', async () => {
    const batches = fc.record({
      lengths: fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 4 }),
      headDim: fc.integer({ min: 1, max: 40 }),
      keyHeads: fc.integer({ min: 1, max: 2 }),
      group: fc.integer({ min: 1, max: 6 }),
    });
    await fc.assert(
      fc.asyncProperty(batches, async ({ group, ...shape }) => {
        t = new Tensors(device);
        const b = batch({ ...shape, heads: shape.keyHeads * group });
        const actual = await t.read(forward(b).out);
        t.dispose();
        // A row of few elements may be an average that cancels.
        expectClose(actual, attention(b.queries, b.keys, b.values, b.offsets, b).out, 1e-5, true);
      }),
      { numRuns: 10 },
    );
  });

  test('a later token changes no earlier row, whatever its values', async () => {
    t = new Tensors(device);
    const b = batch({ lengths: [20], headDim: 16, heads: 2, keyHeads: 1 });
    const before = await t.read(forward(b).out);
    for (const m of [b.keys, b.values]) m.data.fill(Number.POSITIVE_INFINITY, 19 * 16);
    const after = await t.read(forward(b).out);
    expect(after.slice(0, 19 * 32)).toEqual(before.slice(0, 19 * 32));
  });

  test('a sequence has the same bits alone and in a batch, forward and backward', async () => {
    t = new Tensors(device);
    const b = batch({ lengths: [9, 150, 4], headDim: 24, heads: 4, keyHeads: 2 });
    const rows = ({ columns, data }: Matrix) => ({ rows: 150, columns, data: data.slice(9 * columns, 159 * columns) });
    const alone = {
      ...b,
      offsets: [0, 150],
      queries: rows(b.queries),
      keys: rows(b.keys),
      values: rows(b.values),
      gradOut: rows(b.gradOut),
    };
    expect(await t.read(forward(alone).out)).toEqual((await t.read(forward(b).out)).slice(9 * 96, 159 * 96));
    const [one, all] = [backward(alone), backward(b)];
    expect(await t.read(one.gradQueries)).toEqual((await t.read(all.gradQueries)).slice(9 * 96, 159 * 96));
    expect(await t.read(one.gradKeys)).toEqual((await t.read(all.gradKeys)).slice(9 * 48, 159 * 48));
    expect(await t.read(one.gradValues)).toEqual((await t.read(all.gradValues)).slice(9 * 48, 159 * 48));
  });

  test('the number of threads changes no bit', async () => {
    const results: Float32Array[][] = [];
    for (const threads of [1, 2, 3]) {
      const other = await open(threads);
      t = new Tensors(other);
      const grads = backward(batch({ lengths: [30, 200, 1], headDim: 12, heads: 4, keyHeads: 2 }));
      results.push(await Promise.all(Object.values(grads).map((grad) => t.read(grad))));
      t.dispose();
      other.close();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
  });

  test.each([
    { offsets: [0, 3, 2, 5], maxLength: 5, says: /sequenceOffsets\[2\].*from 3 on.*received 2/ },
    { offsets: [0, 3, 6], maxLength: 5, says: /from 0 to 5.*received 0 to 6/ },
    { offsets: [1, 5], maxLength: 5, says: /received 1 to 5/ },
    { offsets: [0, 5], maxLength: 4, says: /maxLength 4/ },
  ])('sequenceOffsets $offsets are refused', async ({ offsets, maxLength, says }) => {
    t = new Tensors(device);
    const out = t.empty(5, 4);
    const inputs = { queries: t.empty(5, 4), keys: t.empty(5, 2), values: t.empty(5, 2) };
    device.run('attention', {
      ...inputs,
      sequenceOffsets: t.row(offsets, 'i32'),
      out,
      headDim: 2,
      scale: 1,
      maxLength,
    });
    await expect(t.read(out)).rejects.toThrow(says);
  });

  test.each([0, 3, 8])('headDim %i does not divide 4 columns', async (headDim) => {
    t = new Tensors(device);
    const out = t.empty(1, 4);
    const inputs = { queries: t.empty(1, 4), keys: t.empty(1, 4), values: t.empty(1, 4) };
    device.run('attention', { ...inputs, sequenceOffsets: t.row([0, 1], 'i32'), out, headDim, scale: 1, maxLength: 1 });
    await expect(t.read(out)).rejects.toThrow(KernelError);
  });
});
