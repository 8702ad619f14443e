import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { attentionOver } from '../reference/attention.js';
import { type Matrix, matrix } from '../reference/matrix.js';
import { expectClose, type FloatType, floatTypes, randomMatrix, Tensors, tolerance } from './decoder-harness.js';

/** Prefix start, prefix length, own start, own length. */
type Segment = readonly [number, number, number, number];

interface Problem {
  headDim: number;
  group: number;
  keyHeads: number;
  queries: Matrix;
  keys: Matrix;
  values: Matrix;
  segments: readonly Segment[];
}

function problem(
  { headDim, group, keyHeads }: { headDim: number; group: number; keyHeads: number },
  segments: readonly Segment[],
  dtype: FloatType = 'f32',
): Problem {
  const cached = Math.max(...segments.map(([a, m, b, n]) => Math.max(a + m, b + n)));
  const columns = keyHeads * headDim;
  return {
    headDim,
    group,
    keyHeads,
    queries: randomMatrix(segments.length, group * columns, 1, dtype),
    keys: randomMatrix(cached, columns, 2, dtype),
    values: randomMatrix(cached, columns, 3, dtype),
    segments,
  };
}

const rowOf = (m: Matrix, row: number): Matrix => ({
  rows: 1,
  columns: m.columns,
  data: m.data.slice(row * m.columns, (row + 1) * m.columns),
});

function seenBy([prefixStart, prefix, ownStart, own]: Segment): number[] {
  return Array.from({ length: prefix + own }, (_, i) => (i < prefix ? prefixStart + i : ownStart + i - prefix));
}

const scale = 0.3;
const truthOf = (p: Problem) =>
  attentionOver(p.queries, p.keys, p.values, (row) => seenBy(p.segments[row]!), { headDim: p.headDim, scale }).out;

describe.each(await testDevices())('cachedAttention on $name', ({ name, open }) => {
  let device: Device;
  let t: Tensors;

  beforeAll(async () => {
    device = await open();
  });
  beforeEach(() => {
    t = new Tensors(device);
  });
  afterEach(() => {
    t.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  function queue(p: Problem, dtype: FloatType = 'f32', maxLength = Math.max(...p.segments.map((s) => s[1] + s[3]))) {
    const out = t.empty(p.queries.rows, p.queries.columns, dtype);
    device.run('cachedAttention', {
      queries: t.put(p.queries, dtype),
      keyCache: t.put(p.keys, dtype),
      valueCache: t.put(p.values, dtype),
      segments: t.ints(p.segments, 4),
      out,
      headDim: p.headDim,
      scale,
      maxLength,
    });
    return out;
  }
  const run = (...given: Parameters<typeof queue>) => t.read(queue(...given));

  describe.each(floatTypes)('%s', (dtype) => {
    test.each([
      { headDim: 64, group: 7, keyHeads: 2 },
      { headDim: 128, group: 4, keyHeads: 1 },
      { headDim: 80, group: 2, keyHeads: 2 },
      { headDim: 256, group: 8, keyHeads: 1 },
      { headDim: 32, group: 1, keyHeads: 3 },
      { headDim: 20, group: 9, keyHeads: 1 },
      { headDim: 5, group: 3, keyHeads: 2 },
    ])('equals the reference, $group heads of $headDim on each of $keyHeads', async (shape) => {
      // Around 256 keys, the least that CUDA gives a block, with a prefix that two rows share.
      const segments: Segment[] = [
        [3, 1, 0, 0],
        [0, 200, 300, 55],
        [0, 200, 355, 56],
        [0, 0, 20, 257],
        [10, 300, 5, 300],
      ];
      const p = problem(shape, segments, dtype);
      const packed = await run(p, dtype);
      expectClose(packed, truthOf(p), 4 * tolerance[dtype]);
      // Rows that CUDA cannot read in 16 bytes have the same bits.
      t.dispose();
      t = new Tensors(device, 1);
      expect(await run(p, dtype)).toEqual(packed);
    });

    test('a row has the same bits in every batch, wherever its keys lie, for every maxLength', async () => {
      const segments: Segment[] = [
        [0, 700, 0, 0],
        [0, 3, 3, 10],
        [100, 256, 400, 1],
        [40, 11, 200, 500],
      ];
      const p = problem({ headDim: 24, group: 3, keyHeads: 2 }, segments, dtype);
      const together = await run(p, dtype);
      for (const [row, segment] of segments.entries()) {
        const seen = seenBy(segment);
        const gathered = (m: Matrix) =>
          matrix(9 + seen.length, m.columns, (r, c) => (r < 9 ? 5 : m.data[seen[r - 9]! * m.columns + c]!));
        const cut = (row * 257) % seen.length;
        const alone = {
          ...p,
          queries: rowOf(p.queries, row),
          keys: gathered(p.keys),
          values: gathered(p.values),
          segments: [[9, cut, 9 + cut, seen.length - cut]] as const,
        };
        const own = together.slice(row * p.queries.columns, (row + 1) * p.queries.columns);
        for (const maxLength of [seen.length, 100_000]) expect(await run(alone, dtype, maxLength)).toEqual(own);
      }
    });

    // CUDA cuts a cache into parts, which `attention` does not; the two agree to rounding there.
    test.skipIf(name.startsWith('cuda'))('a row has the bits that attention gives it', async () => {
      const segments = Array.from(
        { length: 150 },
        (_, row): Segment => [0, (row * 7) % (row + 2), (row * 7) % (row + 2), row + 1 - ((row * 7) % (row + 2))],
      );
      const p = problem({ headDim: 20, group: 3, keyHeads: 2 }, segments, dtype);
      const out = t.empty(150, p.queries.columns, dtype);
      device.run('attention', {
        queries: t.put(p.queries, dtype),
        keys: t.put(p.keys, dtype),
        values: t.put(p.values, dtype),
        sequenceOffsets: t.row([0, 150], 'i32'),
        out,
        headDim: 20,
        scale,
        maxLength: 150,
      });
      expect(await run(p, dtype)).toEqual(await t.read(out));
    });
  });

  test('a long row beside short ones', async () => {
    // 33 times 256 and one: more than CUDA has parts for.
    const segments: Segment[] = [
      [0, 5, 8000, 8449],
      [3, 1, 0, 0],
      [0, 8192, 0, 0],
    ];
    const p = problem({ headDim: 8, group: 2, keyHeads: 1 }, segments);
    expectClose(await run(p), truthOf(p), 1e-5);
  });

  test('more rows and heads than are counted at a time', async () => {
    const segments = Array.from({ length: 33 }, (_, row): Segment => [row, 1, 0, row === 29 ? 300 : 1]);
    const p = problem({ headDim: 1, group: 1, keyHeads: 128 }, segments);
    expectClose(await run(p), truthOf(p), 1e-5, true);
  });

  test('keys beyond a row change nothing, and scores of -inf have no weight', async () => {
    const p = problem({ headDim: 16, group: 2, keyHeads: 1 }, [[0, 4, 10, 290]]);
    p.queries.data.fill(0.25);
    const hidden = new Set([2, 11, 299]);
    const held = { ...p, keys: matrix(310, 16, (r, c) => p.keys.data[r * 16 + c] ?? 0), values: p.values };
    held.values = matrix(310, 16, (r, c) => p.values.data[r * 16 + c] ?? 0);
    for (const row of hidden) held.keys.data.fill(Number.NEGATIVE_INFINITY, row * 16, (row + 1) * 16);
    for (let row = 300; row < 310; row++) {
      held.keys.data.fill(Number.NaN, row * 16, (row + 1) * 16);
      held.values.data.fill(Number.NaN, row * 16, (row + 1) * 16);
    }
    const kept = seenBy(p.segments[0]!).filter((row) => !hidden.has(row));
    const truth = attentionOver(p.queries, p.keys, p.values, () => kept, { headDim: 16, scale }).out;
    expectClose(await run(held), truth, 4e-6);
  });

  test('NaN in a key or a query makes its row NaN, and no other', async () => {
    const segments: Segment[] = [
      [0, 300, 300, 5],
      [0, 300, 305, 5],
      [0, 300, 310, 5],
    ];
    const p = problem({ headDim: 16, group: 2, keyHeads: 1 }, segments);
    const clean = await run(p);
    p.keys.data[307 * 16 + 3] = Number.NaN;
    p.queries.data.fill(Number.NaN, 2 * 32, 2 * 32 + 16); // one of the two heads
    const out = await run(p);
    expect(out.slice(0, 32)).toEqual(clean.slice(0, 32));
    expect(out.slice(32, 80).every(Number.isNaN)).toBe(true);
    expect(out.slice(80)).toEqual(clean.slice(80));
  });

  test.each<Segment>([
    [-1, 2, 0, 1],
    [0, 3, 2, 3],
    [0, 0, 0, 0],
    [0, 2, 4, -1],
    [0, 4, 0, 4],
  ])('segment (%i, %i, %i, %i) of four cached rows is refused', async (...segment) => {
    const p = problem({ headDim: 2, group: 2, keyHeads: 1 }, [[0, 4, 0, 0]]);
    const out = queue({ ...p, segments: [segment] }, 'f32', 7);
    await expect(t.read(out)).rejects.toThrow(/segments\[0\]/);
  });
});
