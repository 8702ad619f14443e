import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { OperationName } from '../../../src/backend/backend.js';
import { loadDawn } from '../../../src/backend/dawn.js';
import { openWebGpuDevice, requestWebGpuAdapter } from '../../../src/backend/webgpu/open.js';
import { UnsupportedError } from '../../../src/errors.js';
import type { Device, Tensor } from '../../../src/tensor.js';
import { type FloatType, randomMatrix, Tensors } from '../../conformance/decoder-harness.js';
import { seenWith } from '../../devices.js';

const adapter = await requestWebGpuAdapter({ gpu: await loadDawn(), software: true }).catch(() => null);

const pageBytes = 2048;
const [rows, columns] = [24, 48]; // 4,608 bytes of f32, 2,304 of the others: two pages at least
const headDim = 8;

/** Tensors that only one binding each is left for stay below a page. */
const cases: Record<
  string,
  { operation: OperationName; outputs: string[]; inputs(t: Tensors, d: FloatType): Record<string, Tensor | number> }
> = {
  'rows of a table': {
    operation: 'embedding',
    outputs: ['out'],
    inputs: (t, d) => ({
      table: t.put(randomMatrix(rows, columns, 1, d), d),
      ids: t.row([0, 23, 11, 10, 7], 'i32'),
      out: t.empty(5, columns, d),
    }),
  },
  'a gradient of a table': {
    operation: 'embeddingBackward',
    outputs: ['gradTable'],
    inputs: (t, d) => ({
      gradOut: t.put(randomMatrix(5, columns, 2, d), d),
      ids: t.row([0, 23, 11, 23, 7], 'i32'),
      gradTable: t.put(randomMatrix(rows, columns, 3)),
    }),
  },
  'a product': {
    operation: 'matmul',
    outputs: ['out'],
    inputs: (t, d) => ({
      a: t.put(randomMatrix(rows, columns, 4, d), d),
      b: t.put(randomMatrix(60, columns, 5, d), d),
      out: t.put(randomMatrix(rows, 60, 6)),
      ...{ transposeA: 0, transposeB: 1, accumulate: 1 },
    }),
  },
  norms: {
    operation: 'rmsNorm',
    outputs: ['out', 'inverseRms'],
    inputs: (t, d) => ({
      in: t.put(randomMatrix(rows, columns, 7, d), d),
      weight: t.row(randomMatrix(1, columns, 8).data),
      out: t.empty(rows, columns, d),
      inverseRms: t.vector(rows),
      epsilon: 1e-6,
    }),
  },
  rotation: {
    operation: 'rope',
    outputs: ['out'],
    inputs: (t, d) => ({
      in: t.put(randomMatrix(rows, columns, 9, d), d),
      positions: t.row(
        Array.from({ length: rows }, (_, i) => i),
        'i32',
      ),
      inverseFrequencies: t.row([1, 0.5, 0.25, 0.125]),
      out: t.empty(rows, columns, d),
      ...{ headDim, backward: 0 },
    }),
  },
  attention: {
    operation: 'attention',
    outputs: ['out'],
    inputs: (t, d) => ({
      queries: t.put(randomMatrix(rows, columns, 10, d), d),
      keys: t.put(randomMatrix(rows, 24, 11, d), d),
      values: t.put(randomMatrix(rows, 24, 12, d), d),
      sequenceOffsets: t.row([0, 11, rows], 'i32'),
      out: t.empty(rows, columns, d),
      ...{ headDim, scale: 0.3, maxLength: 13 },
    }),
  },
  'a cache of keys and values': {
    operation: 'cachedAttention',
    outputs: ['out'],
    inputs: (t, d) => ({
      queries: t.put(randomMatrix(2, columns, 13, d), d),
      keyCache: t.put(randomMatrix(rows, columns, 14, d), d),
      valueCache: t.put(randomMatrix(rows, columns, 15, d), d),
      segments: t.ints(
        [
          [0, 4, 20, 4],
          [0, 4, 9, 3],
        ],
        4,
      ),
      out: t.empty(2, columns, d),
      ...{ headDim, scale: 0.3, maxLength: 8 },
    }),
  },
  'sums of columns': {
    operation: 'columnSum',
    outputs: ['out'],
    inputs: (t, d) => ({
      in: t.put(randomMatrix(rows, columns, 16, d), d),
      out: t.row(randomMatrix(1, columns, 17).data),
    }),
  },
};

describe.skipIf(!adapter)('tensors beyond one binding', () => {
  let own: GPUDevice;
  let whole: Device;
  let paged: Device;
  beforeAll(async () => {
    const { maxStorageBuffersPerShaderStage } = adapter!.limits;
    own = await adapter!.requestDevice({ requiredLimits: { maxStorageBuffersPerShaderStage } });
    whole = await openWebGpuDevice({ gpuDevice: own });
    const limits = seenWith(own.limits, { maxStorageBufferBindingSize: pageBytes + 4 });
    paged = await openWebGpuDevice({ gpuDevice: seenWith(own, { limits }) });
  });
  afterAll(() => {
    for (const device of [whole, paged]) device.close();
    own.destroy();
  });

  async function results(device: Device, name: string, dtype: FloatType): Promise<ArrayLike<number>[]> {
    const { operation, outputs, inputs } = cases[name]!;
    const tensors = new Tensors(device);
    try {
      const given = inputs(tensors, dtype);
      device.run(operation, given as never);
      return await Promise.all(outputs.map((output) => (given[output] as Tensor).read()));
    } finally {
      tensors.dispose();
    }
  }

  describe.each(Object.keys(cases))('%s', (name) => {
    test.each(['f32', 'bf16'] as const)('in %s have the bits that they have in one binding', async (dtype) => {
      const [actual, expected] = [await results(paged, name, dtype), await results(whole, name, dtype)];
      expect(actual).toEqual(expected);
      for (const values of expected) expect(new Set(Array.from(values)).size).toBeGreaterThan(4);
    });
  });

  test('of too many bindings are an error that names both limits, and the device stays usable', async () => {
    using table = paged.zeros([400, columns]);
    using ids = paged.tensor([0, 399], [2], 'i32');
    using out = paged.empty([2, columns]);
    paged.run('embedding', { table, ids, out });
    await expect(out.read()).rejects.toThrow(UnsupportedError);
    await expect(out.read()).rejects.toThrow(
      /embedding: tensors of 76800, .*maxStorageBufferBindingSize 2048.*maxStorageBuffersPerShaderStage of \d+/,
    );
    paged.run('fill', { out, value: 2 });
    expect(((await out.read()) as Float32Array)[5]).toBe(2);
  });
});
