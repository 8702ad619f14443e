import { describe, expect, test } from 'vitest';
import { loadDawn } from '../../../src/backend/dawn.js';
import type { WebGpuBackend } from '../../../src/backend/webgpu/backend.js';
import { openWebGpuDevice } from '../../../src/backend/webgpu/open.js';
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

/** The device, and how many of its shaders use subgroups, of how many that reduce. */
async function watched(adapter: string, limits: 'adapter' | 'minimum') {
  const device = await openWebGpuDevice({ gpu: await loadDawn(`adapter=${adapter}`), software: true, limits });
  const { gpuDevice } = device.backend as WebGpuBackend;
  const codes: string[] = [];
  const create = gpuDevice.createShaderModule.bind(gpuDevice);
  gpuDevice.createShaderModule = (descriptor) => {
    codes.push(descriptor.code);
    return create(descriptor);
  };
  const reducing = () => codes.filter((code) => code.includes('fn lanes_'));
  return {
    device,
    gpuDevice,
    reducing,
    inSubgroups: () => reducing().filter((code) => code.includes('subgroupShuffle')),
  };
}

describe.each(await adapterNames())('reductions on %s', (adapter) => {
  test('have the same bits in subgroups and through workgroup memory', async () => {
    const least = await watched(adapter, 'minimum');
    const most = await watched(adapter, 'adapter');
    const expected = await reductions(least.device);
    const results = await reductions(most.device);
    for (const [name, values] of Object.entries(expected)) expect(results[name], name).toEqual(values);
    expect([...least.gpuDevice.features].filter((feature) => /subgroups|f16/.test(feature))).toEqual([]);
    expect(least.inSubgroups()).toHaveLength(0);
    expect(least.reducing().length).toBeGreaterThan(9);
    const { subgroupMaxSize = 0 } = most.gpuDevice.adapterInfo;
    // A workgroup of 32 threads is not a multiple of larger subgroups.
    if (subgroupMaxSize <= 32) expect(most.inSubgroups()).toHaveLength(most.reducing().length);
    least.device.close();
    most.device.close();
  }, 120_000);
});
