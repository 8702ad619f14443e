// attention in bf16 with heads of 64 and 128 elements, which CUDA computes in tiles of 128, 64 or 32 rows on tensor cores.
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { attention, attentionBackward } from '../reference/attention.js';
import { expectClose, type FloatType, randomMatrix, Tensors } from './decoder-harness.js';

interface Shape {
  headDim: number;
  heads: number;
  keyHeads: number;
  lengths: number[];
  parents?: number[];
}

/** Lengths around those of tiles; by the heads of a group, a tile of queries ends within a token. */
const shapes: Shape[] = [
  { headDim: 64, heads: 1, keyHeads: 1, lengths: [128, 1, 129] },
  { headDim: 128, heads: 2, keyHeads: 2, lengths: [33, 0, 32, 31] },
  { headDim: 64, heads: 6, keyHeads: 2, lengths: [0, 63, 22, 43] },
  { headDim: 128, heads: 5, keyHeads: 1, lengths: [70, 12, 13] },
  { headDim: 64, heads: 7, keyHeads: 1, lengths: [50, 30, 9, 3, 17, 1], parents: [-1, 0, -1, 2, 0, 2] },
  { headDim: 128, heads: 4, keyHeads: 2, lengths: [65, 5, 0, 31, 40, 0], parents: [-1, 0, -1, 2, 0, 0] },
];

describe.each(await testDevices())('attention in tiles on $name', ({ open }) => {
  let device: Device;
  let t: Tensors;

  beforeAll(async () => {
    device = await open();
    t = new Tensors(device);
  });
  afterEach(() => {
    t.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  // The weights, and backward the gradients of scores, are rounded to bf16 before the products of which they are a part,
  // each by at most 2^-9; so are results that are stored in bf16.
  describe.each<FloatType>(['bf16', 'f32'])('results in %s', (dtype) => {
    test.each(shapes)('$lengths tokens, $heads heads of $headDim on $keyHeads, parents $parents', async (shape) => {
      const { headDim, heads, keyHeads, lengths, parents } = shape;
      const offsets = [0];
      for (const length of lengths) offsets.push(offsets.at(-1)! + length);
      const rows = offsets.at(-1)!;
      const random = (count: number, seed: number) => randomMatrix(rows, count * headDim, seed, 'bf16');
      const [queries, keys, values] = [random(heads, 1), random(keyHeads, 2), random(keyHeads, 3)];
      const gradOut = random(heads, 4);
      const inputs = {
        queries: t.put(queries, 'bf16'),
        keys: t.put(keys, 'bf16'),
        values: t.put(values, 'bf16'),
        sequenceOffsets: t.row(offsets, 'i32'),
        ...(parents && { parents: t.row(parents, 'i32') }),
        headDim,
        scale: 0.15,
        maxLength: rows,
      };
      const [out, logSumExp] = [t.empty(rows, heads * headDim, dtype), t.empty(rows, heads)];
      device.run('attention', { ...inputs, out, logSumExp });
      const truth = attention(queries, keys, values, offsets, { headDim, scale: 0.15 }, parents);
      expectClose(await t.read(out), truth.out, 2 ** -8);
      expectClose(await t.read(logSumExp), truth.logSumExp, 4e-6, true);

      const grads = {
        gradQueries: t.empty(rows, heads * headDim, dtype),
        gradKeys: t.empty(rows, keyHeads * headDim, dtype),
        gradValues: t.empty(rows, keyHeads * headDim, dtype),
      };
      device.run('attentionBackward', { ...inputs, out, logSumExp, gradOut: t.put(gradOut, 'bf16'), ...grads });
      const slopes = attentionBackward(queries, keys, values, offsets, gradOut, { headDim, scale: 0.15 }, parents);
      for (const name of ['gradQueries', 'gradKeys', 'gradValues'] as const) {
        expectClose(await t.read(grads[name]), slopes[name], 2 ** -7, true);
      }
    });
  });
});
