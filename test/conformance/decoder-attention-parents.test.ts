import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { attention, attentionBackward } from '../reference/attention.js';
import { expectClose, type FloatType, floatTypes, randomMatrix, Tensors, tolerance } from './decoder-harness.js';

const headDim = 20;
const heads = 4;
const keyHeads = 2;
const scale = 0.3;

/** Two prompts with three and one continuations, one sequence by itself, and an empty continuation. */
const lengths = [17, 3, 40, 6, 5, 1, 2, 0];
const parents = [-1, 0, 0, -1, -1, 0, 3, 3];

const devices = await testDevices({ features: true });

describe.each(devices)('attention of sequences that continue another on $name', ({ open }) => {
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

  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  const rows = offsets.at(-1)!;

  function run(dtype: FloatType, over: { parents?: readonly number[]; maxLength?: number } = {}) {
    const random = (columns: number, seed: number) => randomMatrix(rows, columns * headDim, seed, dtype);
    const [queries, keys, values, gradOut] = [
      random(heads, 1),
      random(keyHeads, 2),
      random(keyHeads, 3),
      random(heads, 4),
    ];
    const inputs = {
      queries: t.put(queries, dtype),
      keys: t.put(keys, dtype),
      values: t.put(values, dtype),
      sequenceOffsets: t.row(offsets, 'i32'),
      parents: t.row(over.parents ?? parents, 'i32'),
      headDim,
      scale,
      maxLength: over.maxLength ?? 57,
    };
    const [out, logSumExp] = [t.empty(rows, heads * headDim, dtype), t.empty(rows, heads)];
    device.run('attention', { ...inputs, out, logSumExp });
    const grads = {
      gradQueries: t.empty(rows, heads * headDim, dtype),
      gradKeys: t.empty(rows, keyHeads * headDim, dtype),
      gradValues: t.empty(rows, keyHeads * headDim, dtype),
    };
    device.run('attentionBackward', { ...inputs, out, logSumExp, gradOut: t.put(gradOut, dtype), ...grads });
    return { queries, keys, values, gradOut, out, logSumExp, grads };
  }

  test.each(floatTypes)('equals the reference forward and backward, in %s', async (dtype) => {
    const { queries, keys, values, gradOut, out, logSumExp, grads } = run(dtype);
    const shape = { headDim, scale };
    const truth = attention(queries, keys, values, offsets, shape, parents);
    expectClose(await t.read(out), truth.out, 4 * tolerance[dtype]);
    expectClose(await t.read(logSumExp), truth.logSumExp, 4 * tolerance.f32);
    const slopes = attentionBackward(queries, keys, values, offsets, gradOut, shape, parents);
    for (const name of ['gradQueries', 'gradKeys', 'gradValues'] as const) {
      expectClose(await t.read(grads[name]), slopes[name], 4 * tolerance[dtype], true);
    }
  });

  test('without a parent the results are others', async () => {
    const with_ = await t.read(run('f32').out);
    const without = await t.read(run('f32', { parents: parents.map(() => -1) }).out);
    expect(with_).not.toEqual(without);
  });

  test.each([
    ['a later sequence', { parents: [1, -1, 0, -1, -1, 0, 3, 3] }],
    ['itself', { parents: [0, -1, -1, -1, -1, -1, -1, -1] }],
    ['a sequence that has one itself', { parents: [-1, 0, 1, -1, -1, -1, -1, -1] }],
    ['less than -1', { parents: [-2, 0, 0, -1, -1, 0, 3, 3] }],
  ])('refuses a parent that is %s', async (_, over) => {
    const { out } = run('f32', over);
    await expect(t.read(out)).rejects.toThrow(KernelError);
  });

  test('counts the parent in maxLength', async () => {
    const { out } = run('f32', { maxLength: 56 });
    await expect(t.read(out)).rejects.toThrow(/a length of 57/);
  });
});
