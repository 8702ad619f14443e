import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadDawn } from '../../../src/backend/dawn.js';
import type { WebGpuBackend } from '../../../src/backend/webgpu/backend.js';
import { convertsF16Exactly } from '../../../src/backend/webgpu/f16-conversion.js';
import { openWebGpuDevice } from '../../../src/backend/webgpu/open.js';
import { f16ToFloat } from '../../../src/dtype.js';
import type { Device } from '../../../src/tensor.js';
import { randomMatrix, Tensors } from '../../conformance/decoder-harness.js';
import { adapterNames } from '../../devices.js';

type Results = Record<string, number[]>;

/** Every operation that joins values of threads, in the sizes of workgroups that it has. */
async function reductions(device: Device): Promise<Results> {
  const t = new Tensors(device);
  const results: Results = {};
  for (const group of [1, 20, 600]) {
    const source = t.put(randomMatrix(5, 2 * group, 1));
    const weight = t.row(randomMatrix(1, group, 2).data);
    const [out, gradIn] = [t.empty(5, 2 * group), t.empty(5, 2 * group)];
    const inverseRms = t.vector(10);
    device.run('rmsNorm', { in: source, weight, out, inverseRms, epsilon: 1e-6 });
    device.run('rmsNormBackward', { in: source, weight, inverseRms, gradOut: out, gradIn, accumulate: 0 });
    results[`rmsNorm in groups of ${group}`] = [...(await t.read(out)), ...(await t.read(gradIn))];
  }
  const targets = t.row([0, 3, 7], 'i32');
  const gradLogProbs = t.row([1, -0.5, 0.25]);
  for (const vocabulary of [33, 5000]) {
    const logits = t.put(randomMatrix(3, vocabulary, 3));
    const [logProbs, entropy, logSumExp] = [t.vector(3), t.vector(3), t.vector(3)];
    const gradLogits = t.empty(3, vocabulary);
    const setting = { temperature: 0.7, softcap: 0 };
    device.run('tokenLogProbs', { logits, targets, logProbs, entropy, logSumExp, ...setting });
    device.run('tokenLogProbsBackward', {
      ...{ logits, targets, logSumExp, entropy, gradLogProbs, gradLogits },
      ...{ gradEntropy: gradLogProbs, vocabStart: 0, vocabSize: 0, ...setting },
    });
    const ids = t.row([0, 0, 0], 'i32');
    const keys = t.ints(
      [0, 1, 2].map((i) => [1, 2, i, 4]),
      4,
    );
    device.run('sample', { logits, keys, ids, logProbs, temperature: 1, topK: 20, topP: 0.9, minP: 0 });
    results[`log-probs of ${vocabulary}`] = [
      ...(await Promise.all([logProbs, entropy, logSumExp, gradLogits].map((x) => t.read(x)))).flatMap((x) => [...x]),
      ...((await ids.read()) as Int32Array),
    ];
  }
  const [queries, keyRows, valueRows] = [1, 2, 3].map((seed) => t.put(randomMatrix(70, 40, seed)));
  const [out, logSumExp] = [t.empty(70, 40), t.empty(70, 2)];
  const sequenceOffsets = t.row([0, 1, 70], 'i32');
  const heads = { headDim: 20, scale: 0.3, maxLength: 70 };
  device.run('attention', {
    queries: queries!,
    keys: keyRows!,
    values: valueRows!,
    sequenceOffsets,
    out,
    logSumExp,
    ...heads,
  });
  results.attention = [...(await t.read(out)), ...(await t.read(logSumExp))];
  const norm = t.vector(1);
  device.run('globalNorm', { in: t.row(randomMatrix(1, 40_000, 9).data), norm });
  results.globalNorm = [...(await t.read(norm))];
  t.dispose();
  return results;
}

/** 16-bit floats as they are read and written, and products of them. */
async function halves(device: Device): Promise<Results> {
  const t = new Tensors(device);
  const every = Uint16Array.from({ length: 2 ** 16 }, (_, i) => i);
  const numbers = device.tensor(every, [every.length], 'f16');
  const wide = device.empty([every.length]);
  device.run('copy', { in: numbers, out: wide });
  const values = (await wide.read()) as Float32Array;
  // Half way to the next number, subnormal ones too, where rounding decides.
  const between = values.map((x, i) => (Number.isFinite(x + values[i + 1]!) ? (x + values[i + 1]!) / 2 : x));
  wide.write(between);
  device.run('copy', { in: wide, out: numbers });
  const rounded = await numbers.read();
  numbers.dispose();
  wide.dispose();
  const results: Results = { values: [...values], rounded: [...rounded] };
  for (const transpose of [0, 1]) {
    const [a, b, bias] = [
      randomMatrix(20, 20, 1, 'f16'),
      randomMatrix(20, 20, 2, 'f16'),
      randomMatrix(1, 20, 3, 'f16'),
    ];
    a.data[7] = 2 ** -24; // subnormal
    const out = t.empty(20, 20, 'f16');
    const tensors = { a: t.put(a, 'f16'), b: t.put(b, 'f16'), bias: t.row(bias.data, 'f16'), out };
    device.run('matmul', { ...tensors, transposeA: transpose, transposeB: transpose, accumulate: 1 });
    results[`matmul, transposed ${transpose}`] = [...(await t.read(out))];
  }
  t.dispose();
  return results;
}

/** A device, and the shaders that it was given. */
async function watched(adapter: string, limits: 'adapter' | 'minimum') {
  const device = await openWebGpuDevice({ gpu: await loadDawn(`adapter=${adapter}`), software: true, limits });
  const { gpuDevice } = device.backend as WebGpuBackend;
  const codes: string[] = [];
  const create = gpuDevice.createShaderModule.bind(gpuDevice);
  gpuDevice.createShaderModule = (descriptor) => {
    codes.push(descriptor.code);
    return create(descriptor);
  };
  return { device, gpuDevice, with: (text: string) => codes.filter((code) => code.includes(text)).length };
}

const names = await adapterNames();

if (names.length === 0) test.skip('needs an adapter of WebGPU');

describe.each(names)('optional features of %s', (adapter) => {
  let least: Awaited<ReturnType<typeof watched>>;
  let most: typeof least;
  beforeAll(async () => {
    least = await watched(adapter, 'minimum');
    most = await watched(adapter, 'adapter');
  });
  afterAll(() => {
    least.device.close();
    most.device.close();
  });

  test('are not asked for with the least limits', () => {
    expect([...least.gpuDevice.features].filter((feature) => /subgroups|f16/.test(feature))).toEqual([]);
    expect(least.device.backend.details).toMatchObject({
      features: 'none',
      reductions: 'through workgroup memory',
      f16: 'converted by integers',
    });
    const { subgroupMinSize, subgroupMaxSize } = most.gpuDevice.adapterInfo;
    expect(most.device.backend.details.reductions).toBe(`in subgroups of ${subgroupMinSize} to ${subgroupMaxSize}`);
  });

  test('reductions have the same bits in subgroups and through workgroup memory', async () => {
    const expected = await reductions(least.device);
    const results = await reductions(most.device);
    for (const [name, values] of Object.entries(expected)) expect(results[name], name).toEqual(values);
    expect(least.with('fn lanes_')).toBeGreaterThan(9);
    expect(least.with('subgroupShuffle')).toBe(0);
    // A workgroup of 32 threads is not a multiple of larger subgroups.
    const { subgroupMaxSize = 0 } = most.gpuDevice.adapterInfo;
    if (subgroupMaxSize <= 32) expect(most.with('subgroupShuffle')).toBe(most.with('fn lanes_'));
  }, 120_000);

  test('f16 has the same bits by the device and by integers', async () => {
    const expected = await halves(least.device);
    expect(expected.values!.slice(0, 2 ** 15)).toEqual(Array.from({ length: 2 ** 15 }, (_, bits) => f16ToFloat(bits)));
    const results = await halves(most.device);
    for (const [name, values] of Object.entries(expected)) expect(results[name], name).toEqual(values);
    expect(least.with('enable f16')).toBe(0);
    const native = most.gpuDevice.features.has('shader-f16') && (await convertsF16Exactly(most.gpuDevice));
    expect(most.with('alias Factor = f16')).toBe(native ? 2 : 0);
    if (/llvmpipe/.test(adapter)) expect(native).toBe(true);
  }, 120_000);

  test('f16 that flushes subnormals, cuts off or saturates is found out', async (context) => {
    if (!most.gpuDevice.features.has('shader-f16')) context.skip();
    const value = 'fn native_f16_value(bits: u32) -> f32 { return f16_value(bits); }';
    const bits = (expression: string) => `fn native_f16_bits(x: f32) -> u32 { return ${expression}; }`;
    const good = [value, bits('f16_bits(x)')];
    expect(await convertsF16Exactly(most.gpuDevice, good.join('\n'))).toBe(true);
    const faulty = [
      [value.replace('f16_value(bits)', 'select(f16_value(bits), 0.0, (bits & 0x7c00u) == 0u)'), good[1]],
      [value, bits('select(f16_bits(x), 0u, abs(x) < 6.1e-5)')],
      [value, bits('f16_bits(bitcast<f32>(bitcast<u32>(x) & ~0x1fffu))')],
      [value, bits('f16_bits(min(x, 65504.0))')],
      [value, 'no WGSL'],
    ];
    for (const code of faulty) expect(await convertsF16Exactly(most.gpuDevice, code.join('\n'))).toBe(false);
  });
});
