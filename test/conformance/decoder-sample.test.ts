import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { type Matrix, matrix } from '../reference/matrix.js';
import { type SampleOptions, sample, sampleDistribution } from '../reference/sample.js';
import { type FloatType, floatTypes, randomMatrix, Tensors } from './decoder-harness.js';

const plain: SampleOptions = { temperature: 1, topK: 0, topP: 1, minP: 0 };

describe.each(await testDevices())('sample on $name', ({ open }) => {
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

  async function draw(logits: Matrix, keys: number[][], options: SampleOptions = plain, dtype: FloatType = 'f32') {
    const ids = t.row(new Int32Array(logits.rows), 'i32');
    const logProbs = t.vector(logits.rows);
    device.run('sample', { logits: t.put(logits, dtype), keys: t.ints(keys, 4), ids, logProbs, ...options });
    return { ids: Array.from(await ids.read()), logProbs: (await logProbs.read()) as Float32Array };
  }

  const keysFor = (rows: number, seed = 5) => Array.from({ length: rows }, (_, i) => [seed, -seed, i, 3 * i]);
  const repeated = (logits: number[], rows: number) => matrix(rows, logits.length, (_, c) => logits[c]!);
  const rowOf = ({ columns, data }: Matrix, r: number) => Array.from(data.subarray(r * columns, (r + 1) * columns));

  test.each([
    plain,
    { temperature: 0.7, topK: 0, topP: 1, minP: 0 },
    { temperature: 1.3, topK: 5, topP: 1, minP: 0 },
    { temperature: 1, topK: 0, topP: 0.6, minP: 0 },
    { temperature: 1, topK: 0, topP: 1, minP: 0.2 },
    { temperature: 1.5, topK: 20, topP: 0.8, minP: 0.1 },
    { temperature: 0, topK: 0, topP: 1, minP: 0 },
  ])('draws the tokens of the reference with $temperature, topK $topK, topP $topP, minP $minP', async (options) => {
    t = new Tensors(device, 3);
    for (const [dtype, columns] of [...floatTypes.map((d) => [d, 33] as const), ['f32', 1], ['f32', 5000]] as const) {
      const logits = randomMatrix(40, columns, 7, dtype);
      const { ids } = await draw(logits, keysFor(40), options, dtype);
      expect(ids).toEqual(keysFor(40).map((key, r) => sample(rowOf(logits, r), key, options)));
    }
  });

  // CUDA cuts a row of 16,389 logits into two parts; the second read is of one of them where no filter acts.
  test.each([
    plain,
    { ...plain, temperature: 0.4 },
    { ...plain, temperature: 0 },
    { ...plain, topK: 500 },
    { temperature: 0.7, topK: 0, topP: 0.9, minP: 0.01 },
  ])('draws them from long rows with $temperature, topK $topK, topP $topP, minP $minP', async (options) => {
    for (const [dtype, gap] of [
      ['f32', 0],
      ['bf16', 0],
      ['f16', 1],
    ] as const) {
      t = new Tensors(device, gap);
      const logits = randomMatrix(5, 16389, 9, dtype);
      const { ids } = await draw(logits, keysFor(5), options, dtype);
      expect(ids).toEqual(keysFor(5).map((key, r) => sample(rowOf(logits, r), key, options)));
      t.dispose();
    }
  });

  test('draws from the one stretch of a long row that has weights, whatever the rest is', async () => {
    t = new Tensors(device);
    const { NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high, NaN: nan } = Number;
    const rows: [rest: number, at: number, logit: number][] = [
      [low, 0, -3],
      [low, 10239, 2],
      [low, 10240, -1e30],
      [nan, 16388, 1],
      [-1000, 16000, -5],
      [5, 12000, high],
      [5, 12000, 400],
    ];
    const logits = matrix(rows.length, 16389, (r, c) => rows[r]![c === rows[r]![1] ? 2 : 0]!);
    logits.data[5 * 16389 + 3] = nan;
    for (const options of [plain, { ...plain, temperature: 0 }, { ...plain, topP: 0.5 }, { ...plain, minP: 0.1 }]) {
      const { ids } = await draw(logits, keysFor(rows.length), options);
      expect(ids).toEqual(rows.map(([, at]) => at));
    }
    // The first of the largest, wherever the others are.
    const ties = matrix(1, 16389, (_, c) => (c % 7000 === 6999 ? 2 : 1));
    expect((await draw(ties, keysFor(1), { ...plain, temperature: 0 })).ids).toEqual([6999]);
    for (const rest of [nan, low])
      expect(
        (
          await draw(
            matrix(1, 16389, () => rest),
            keysFor(1),
          )
        ).ids,
      ).toEqual([0]);
  });

  test('any filters on any row', async () => {
    const rows = fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 1, maxLength: 300 });
    const options = fc.record({
      temperature: fc.double({ min: 0.1, max: 5, noNaN: true }),
      topK: fc.integer({ min: 0, max: 400 }),
      topP: fc.double({ min: 0.01, max: 1, noNaN: true }),
      minP: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    await fc.assert(
      fc.asyncProperty(rows, options, fc.integer(), async (row, filters, seed) => {
        t = new Tensors(device);
        const logits = row.map(Math.fround);
        const { ids } = await draw(repeated(logits, 8), keysFor(8, seed), filters);
        t.dispose();
        // Where a sum of probabilities falls just on topP, rounding decides; a hair more keeps what either keeps.
        const looser = { ...filters, topP: Math.min(1, filters.topP + 1e-6), minP: filters.minP * (1 - 1e-6) };
        const allowed = sampleDistribution(logits, looser);
        for (const id of ids) expect(allowed[id]).toBeGreaterThan(0);
      }),
      { numRuns: 25 },
    );
  });

  test('tokens come as often as their probabilities say', async () => {
    t = new Tensors(device);
    const logits = [0.3, -1.2, 1.5, Number.NEGATIVE_INFINITY, 0, 2.1, -3, 0.9];
    const rows = 20000;
    for (const options of [plain, { temperature: 0.8, topK: 5, topP: 0.95, minP: 0.1 }]) {
      const { ids } = await draw(repeated(logits, rows), keysFor(rows), options);
      const expected = sampleDistribution(logits, options);
      const counts = expected.map((_, id) => ids.filter((drawn) => drawn === id).length);
      const support = expected.filter((p) => p > 0).length;
      expected.forEach((p, id) => {
        if (p === 0) expect(counts[id]).toBe(0);
      });
      const chiSquare = (observed: number[]) =>
        expected.reduce((sum, p, id) => (p === 0 ? sum : sum + (observed[id]! - rows * p) ** 2 / (rows * p)), 0);
      // Mean plus five standard deviations of the chi-square distribution.
      const limit = support - 1 + 5 * Math.sqrt(2 * (support - 1));
      expect(chiSquare(counts)).toBeLessThan(limit);
      const off = Math.round(0.02 * rows);
      expect(chiSquare(counts.map((n, id) => n + (id === 5 ? off : id === 2 ? -off : 0)))).toBeGreaterThan(limit);
    }
  });

  // A launch on CUDA takes 4,096 rows.
  test('any number of rows', async () => {
    t = new Tensors(device, 3);
    const logits = randomMatrix(5000, 9, 8, 'f32');
    const { ids } = await draw(logits, keysFor(5000));
    expect(ids).toEqual(keysFor(5000).map((key, r) => sample(rowOf(logits, r), key, plain)));
  });

  test('a sample does not depend on its batch', async () => {
    t = new Tensors(device);
    for (const columns of [700, 16389]) {
      const logits = randomMatrix(9, columns, 3);
      const keys = keysFor(9);
      const together = await draw(logits, keys);
      for (const r of [0, 4, 8]) {
        const alone = await draw(
          matrix(1, columns, (_, c) => logits.data[r * columns + c]!),
          [keys[r]!],
        );
        expect(alone.ids[0]).toBe(together.ids[r]);
        expect(alone.logProbs[0]).toBe(together.logProbs[r]);
      }
    }
  });

  test('another seed, sequence or position draws another number', async () => {
    t = new Tensors(device);
    const keys = [
      [1, 2, 3, 4],
      [9, 2, 3, 4],
      [1, 9, 3, 4],
      [1, 2, 9, 4],
      [1, 2, 3, 9],
    ];
    const { ids } = await draw(repeated(Array(4096).fill(0), 5), keys);
    expect(new Set(ids).size).toBe(5);
  });

  test.each(floatTypes)('log-probs have the bits of tokenLogProbs, %s', async (dtype) => {
    t = new Tensors(device, 2);
    for (const [columns, temperature] of [
      [33, 1],
      [9001, 0.6],
      [16389, 1.5],
      [129, 0],
    ] as const) {
      const logits = randomMatrix(6, columns, 11, dtype);
      const { ids, logProbs } = await draw(logits, keysFor(6), { ...plain, temperature, topP: 0.9 }, dtype);
      const out = t.vector(6);
      const args = { logits: t.put(logits, dtype), targets: t.row(ids, 'i32'), logProbs: out };
      device.run('tokenLogProbs', { ...args, temperature: temperature || 1, softcap: 0 });
      expect(await t.read(out)).toEqual(logProbs);
    }
  });

  test('temperature 0 takes the lowest id among the largest logits', async () => {
    t = new Tensors(device);
    const greedy = { ...plain, temperature: 0 };
    expect((await draw(repeated([1, 3, 3, 2, 3], 1), keysFor(1), greedy)).ids).toEqual([1]);
    expect((await draw(repeated(Array(50).fill(-2), 1), keysFor(1), greedy)).ids).toEqual([0]);
  });

  test('filters keep ties with the last token kept', async () => {
    t = new Tensors(device);
    const logits = repeated([0, 1, 1, 1, -1], 600);
    const drawn = async (options: Partial<SampleOptions>) =>
      [...new Set((await draw(logits, keysFor(600), { ...plain, ...options })).ids)].sort();
    expect(await drawn({ topK: 2 })).toEqual([1, 2, 3]);
    expect(await drawn({ topP: 0.3 })).toEqual([1, 2, 3]);
    expect(await drawn({ topP: 0 })).toEqual([1, 2, 3]);
    expect(await drawn({ minP: 1 })).toEqual([1, 2, 3]);
    expect(await drawn({ topK: 1, topP: 0.1, minP: 0.9 })).toEqual([1, 2, 3]);
  });

  test('-inf is never drawn, NaN and +inf do not crash', async () => {
    t = new Tensors(device);
    const { NEGATIVE_INFINITY: low, POSITIVE_INFINITY: high, NaN: nan } = Number;
    const lowest = Array(40).fill(low);
    const one = await draw(repeated(Object.assign([...lowest], { 37: -5 }), 20), keysFor(20));
    expect(one.ids).toEqual(Array(20).fill(37));
    expect(Array.from(one.logProbs)).toEqual(Array(20).fill(0));
    for (const options of [plain, { ...plain, temperature: 0 }, { temperature: 1, topK: 2, topP: 0.5, minP: 0.1 }]) {
      expect((await draw(repeated([0, high, 1], 4), keysFor(4), options)).ids).toEqual([1, 1, 1, 1]);
      expect((await draw(repeated([nan, nan, 1], 4), keysFor(4), options)).ids).toEqual([2, 2, 2, 2]);
      for (const row of [[nan, nan], lowest]) {
        expect((await draw(repeated(row, 4), keysFor(4), options)).ids).toEqual([0, 0, 0, 0]);
      }
    }
  });

  test('no rows', async () => {
    t = new Tensors(device);
    expect((await draw(matrix(0, 5), [])).ids).toEqual([]);
  });

  test.each([
    { temperature: -1 },
    { temperature: Number.NaN },
    { temperature: Number.POSITIVE_INFINITY },
    { topK: -1 },
    { topK: 1.5 },
    { topP: 1.1 },
    { topP: -0.1 },
    { minP: Number.NaN },
    { minP: 2 },
  ])('%o is refused', async (option) => {
    t = new Tensors(device);
    const [name, value] = Object.entries(option)[0]!;
    await expect(draw(repeated([1, 2], 1), keysFor(1), { ...plain, ...option })).rejects.toThrow(
      new RegExp(`for ${name} but received -?${Math.abs(value)}|nan|inf`, 'i'),
    );
    await device.synchronize();
  });
});
