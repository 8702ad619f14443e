// Attention on CUDA's tensor cores beside the plain kernels, which take what tensor cores do not.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Device, Tensor } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { attention, attentionBackward } from '../reference/attention.js';
import { type Matrix, matrix } from '../reference/matrix.js';
import { type FloatType, randomMatrix, relativeError, stored, Tensors, tolerance } from './decoder-harness.js';

interface Batch {
  headDim: number;
  heads: number;
  keyHeads: number;
  offsets: number[];
  parents?: number[];
  scale: number;
  queries: Matrix;
  keys: Matrix;
  values: Matrix;
  gradOut: Matrix;
}
interface Results {
  out: Float32Array;
  logSumExp: Float32Array;
  gradQueries: Float32Array;
  gradKeys: Float32Array;
  gradValues: Float32Array;
}

const results = ['out', 'gradQueries', 'gradKeys', 'gradValues'] as const;

function batchOf(
  lengths: number[],
  {
    headDim = 64,
    heads = 4,
    keyHeads = 2,
    parents = undefined as number[] | undefined,
    dtype = 'bf16' as FloatType,
    scale = 0.15,
  } = {},
): Batch {
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  const random = (count: number, seed: number) => randomMatrix(offsets.at(-1)!, count * headDim, seed, dtype);
  return {
    ...{ headDim, heads, keyHeads, offsets, parents, scale },
    queries: random(heads, 1),
    keys: random(keyHeads, 2),
    values: random(keyHeads, 3),
    gradOut: random(heads, 4),
  };
}

const devices = (await testDevices()).filter(({ name }) => name.startsWith('cuda'));
if (devices.length === 0) test.skip('needs CUDA or its stand-in');

describe.each(devices)('attention on tensor cores beside plain kernels, on $name', ({ open }) => {
  let device: Device;
  const opened: Tensors[] = [];
  beforeAll(async () => {
    device = await open();
  });
  afterEach(() => {
    for (const tensors of opened.splice(0)) tensors.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  /** Forward and backward. Rows lie `gap` elements apart, those of results `outGap`; results are stored as `results`. */
  function queue(b: Batch, { gap = 0, outGap = 0, dtype = 'bf16' as FloatType, resultType = 'f32' as FloatType } = {}) {
    const [inputs, outputs, packed] = [gap, outGap, 0].map((g) => new Tensors(device, g));
    opened.push(inputs!, outputs!, packed!);
    const shared = {
      queries: inputs!.put(b.queries, dtype),
      keys: inputs!.put(b.keys, dtype),
      values: inputs!.put(b.values, dtype),
      sequenceOffsets: packed!.row(b.offsets, 'i32'),
      ...(b.parents && { parents: packed!.row(b.parents, 'i32') }),
      ...{ headDim: b.headDim, scale: b.scale, maxLength: b.queries.rows },
    };
    const empty = (m: Matrix) => outputs!.empty(m.rows, m.columns, resultType);
    const out = empty(b.queries);
    const logSumExp = outputs!.empty(b.queries.rows, b.heads);
    device.run('attention', { ...shared, out, logSumExp });
    const grads = { gradQueries: empty(b.queries), gradKeys: empty(b.keys), gradValues: empty(b.values) };
    device.run('attentionBackward', { ...shared, out, logSumExp, gradOut: inputs!.put(b.gradOut, dtype), ...grads });
    return { out, logSumExp, ...grads };
  }

  async function run(b: Batch, options: Parameters<typeof queue>[1] = {}): Promise<Results> {
    const tensors = Object.entries(queue(b, options));
    const read = async ([name, tensor]: [string, Tensor]) => [name, await opened.at(-1)!.read(tensor)];
    return Object.fromEntries(await Promise.all(tensors.map(read)));
  }

  const truthOf = (b: Batch) => ({
    out: attention(b.queries, b.keys, b.values, b.offsets, b, b.parents).out,
    ...attentionBackward(b.queries, b.keys, b.values, b.offsets, b.gradOut, b, b.parents),
  });
  const asMatrix = (like: Matrix, data: Float32Array) =>
    matrix(like.rows, like.columns, (r, c) => data[r * like.columns + c]!);

  // Weights rounded to bf16 put float32 results off by some 1e-3; the plain kernels are off by 1e-6.
  test.each<[string, boolean, Parameters<typeof batchOf>[1], Parameters<typeof queue>[1]]>([
    ['bf16, heads of 64', true, {}, {}],
    ['bf16, heads of 128', true, { headDim: 128 }, {}],
    ['bf16, rows 16 bytes further apart', true, {}, { gap: 8 }],
    ['bf16, rows of results 16 bytes further apart', true, {}, { outGap: 4 }],
    ['bf16, rows that 16-byte loads cannot take', false, {}, { gap: 4 }],
    ['bf16, rows of results that no pair fits', false, {}, { outGap: 1 }],
    ['bf16, heads of 32', false, { headDim: 32 }, {}],
    ['bf16, heads of 96', false, { headDim: 96 }, {}],
    ['f16', false, { dtype: 'f16' }, { dtype: 'f16' }],
    ['f32', false, { dtype: 'f32' }, { dtype: 'f32' }],
  ])('%s: on tensor cores %s', async (_, onTensorCores, shape, options) => {
    const b = batchOf([9, 40], shape);
    const [actual, truth] = [await run(b, options), truthOf(b)];
    for (const name of results) {
      const error = relativeError(actual[name], truth[name], true);
      expect(error).toBeLessThan(onTensorCores ? 2 ** -7 : 5e-6);
      if (onTensorCores) expect(error).toBeGreaterThan(2 ** -12);
    }
  });

  // Only a scale above 0 lets tiles look for the largest score first.
  test.each([0, -0.15])('a scale of %d: forward by the plain kernel', async (scale) => {
    const b = batchOf([9, 40], { scale });
    const [actual, truth] = [await run(b), truthOf(b)];
    expect(relativeError(actual.out, truth.out, true)).toBeLessThan(5e-6);
    for (const name of results) expect(relativeError(actual[name], truth[name], true)).toBeLessThan(2 ** -7);
  });

  test.each([{}, { headDim: 128 }, { heads: 7, keyHeads: 1, parents: [-1, 0, -1, 2, 0] }])(
    'gives what the plain kernels give, %j',
    async (shape) => {
      const b = batchOf([70, 3, 0, 33, 31], shape);
      const [tiles, plain] = [await run(b), await run(b, { gap: 4 })];
      const truth = truthOf(b);
      for (const name of results) {
        expect(relativeError(tiles[name], asMatrix(truth[name], plain[name]), true)).toBeLessThan(2 ** -7);
      }
      for (const [i, x] of plain.logSumExp.entries()) expect(Math.abs(tiles.logSumExp[i]! - x)).toBeLessThan(4e-6);
      // The same kernels with results in bf16: those rounded.
      const narrow = await run(b, { resultType: 'bf16' });
      expect(narrow.out).toEqual(tiles.out.map((x) => stored(x, 'bf16')));
      for (const name of results) {
        expect(relativeError(narrow[name], asMatrix(truth[name], tiles[name]), true)).toBeLessThan(2 * tolerance.bf16);
      }
    },
  );

  test('the same bits each time, alone or in a batch, with a prompt of its own or a shared one', async () => {
    const b = batchOf([20, 90, 4, 50], { parents: [-1, -1, 1, 1] });
    const all = await run(b);
    // The stand-in runs warps in another order each time, and leaves other bytes where nobody wrote.
    // How many numbers differ: the difference itself takes long to print.
    for (let again = 0; again < 5; again++) {
      const other = await run(b);
      for (const name of [...results, 'logSumExp'] as const) {
        expect(other[name].filter((x, i) => x !== all[name][i]).length, name).toBe(0);
      }
    }

    const rows = (first: number, end: number) => (m: Matrix) =>
      matrix(end - first, m.columns, (r, c) => m.data[(first + r) * m.columns + c]!);
    const cut = (offsets: number[], of: (m: Matrix) => Matrix): Batch => ({
      ...{ ...b, offsets, parents: undefined },
      ...{ queries: of(b.queries), keys: of(b.keys), values: of(b.values), gradOut: of(b.gradOut) },
    });
    const alone = await run(cut([0, 20], rows(0, 20)));
    for (const name of results) expect(alone[name]).toEqual(all[name].slice(0, alone[name].length));

    // The second sequence and the last as one.
    const joined = await run(
      cut([0, 140], (m) => matrix(140, m.columns, (r, c) => m.data[(r < 90 ? 20 + r : 24 + r) * m.columns + c]!)),
    );
    for (const name of ['out', 'gradQueries'] as const) {
      expect(joined[name].slice(90 * 256)).toEqual(all[name].slice(114 * 256));
    }
  });

  describe('numbers that are not finite', () => {
    /** The results of both kernels, which differ by rounding where they are finite and not at all where they are not. */
    async function both(b: Batch) {
      const [tiles, plain] = [await run(b), await run(b, { gap: 4 })];
      for (const [name, off] of [...results.map((name) => [name, 0.05] as const), ['logSumExp', 4e-6] as const]) {
        for (const [i, x] of plain[name].entries()) {
          const y = tiles[name][i]!;
          if (Number.isFinite(x)) expect(Math.abs(x - y), `${name}[${i}]`).toBeLessThan(off);
          else expect(y, `${name}[${i}]`).toBe(x);
        }
      }
      return tiles;
    }
    const set = (m: Matrix, row: number, first: number, value: number, count = 1) =>
      m.data.fill(value, row * m.columns + first, row * m.columns + first + count);
    const notFinite = (x: Float32Array) => x.filter((y) => !Number.isFinite(y)).length;

    test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])(
      'a value or key of %d reaches the rows that see it, and no other',
      async (value) => {
        const b = batchOf([40, 70], { heads: 2, keyHeads: 1 });
        set(b.values, 50, 3, value);
        const some = await both(b);
        expect(notFinite(some.out)).toBe(60 * 2);
        set(b.keys, 90, 5, value);
        const more = await both(b);
        expect(notFinite(more.gradQueries.slice(0, 50 * 128))).toBe(0);
      },
    );

    test('a row whose scores are all -inf has no weights, and others keep theirs', async () => {
      const b = batchOf([3, 40], { heads: 2, keyHeads: 1 });
      // The first key of the second sequence: -inf for all who look at it with a positive first element.
      set(b.keys, 3, 0, Number.NEGATIVE_INFINITY);
      for (let row = 3; row < 43; row++) for (const head of [0, 1]) set(b.queries, row, head * 64, 0.5);
      const tiles = await both(b);
      expect([...tiles.logSumExp.slice(6, 8)]).toEqual([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]);
      expect(notFinite(tiles.out)).toBe(128); // the first row, which sees nothing else
    });

    test('an upstream gradient of NaN, and a query', async () => {
      const b = batchOf([70, 20], { heads: 2, keyHeads: 1 });
      set(b.gradOut, 40, 70, Number.NaN);
      const tiles = await both(b);
      expect(notFinite(tiles.gradQueries)).toBe(64);
      set(b.queries, 75, 64, Number.POSITIVE_INFINITY);
      await both(b);
    });
  });
});
