import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  bytesPerElement,
  type DType,
  type OperationName,
  operations,
  type TensorView,
} from '../../../src/backend/backend.js';
import { parsedOperations } from '../../../src/backend/check-arguments.js';
import { loadDawn } from '../../../src/backend/dawn.js';
import { type Abilities, leastAbilities } from '../../../src/backend/webgpu/abilities.js';
import { WebGpuBackend } from '../../../src/backend/webgpu/backend.js';
import { convertsF16Exactly } from '../../../src/backend/webgpu/f16-conversion.js';
import { wgslSources } from '../../../src/backend/webgpu/wgsl-sources.js';
import { policyStatisticCount } from '../../../src/kernels/policy-statistics.js';

type Choices = Record<string, readonly number[]>;

/** Lengths of dimensions (a letter; `tensor.d` is dimension d of a tensor), and scalars that choose between shaders. */
interface Setting {
  lengths: Readonly<Record<string, number>>;
  scalars?: Choices;
}

const heads = (headDim: number) => ({
  lengths: { N: 5, R: 5, C: 6, Q: 4 * headDim, K: 2 * headDim, A: 4, B: 2 },
  scalars: { headDim: [headDim], scale: [1], maxLength: [5] },
});
const everyHeadDim = [8, 16, 32, 64, 128, 256].map(heads);
/** A row of a whole vocabulary for each size of workgroup, then a slice. */
const rows = [30, 300, 3000].map((V) => ({
  lengths: { N: 3, V, H: 8 },
  scalars: { temperature: [1], softcap: [0, 30], vocabStart: [0], vocabSize: [0, 4000], workspaceBytes: [2 ** 20] },
}));
const flags = [0, 1];
const square = { lengths: { 'a.0': 4, 'a.1': 4, 'b.0': 4, 'b.1': 4, N: 4, M: 4 } };

/** The settings of an operation; those without an entry have one shader for each choice of dtypes. */
const settings: Partial<Record<OperationName, readonly Setting[]>> = {
  matmul: [{ ...square, scalars: { transposeA: flags, transposeB: flags, accumulate: flags } }],
  rmsNorm: [4, 16, 32, 64, 200].map((D) => ({ lengths: { N: 3, C: 2 * D, D, G: 6 } })),
  rmsNormBackward: [4, 16, 32, 64, 200].map((D) => ({
    lengths: { N: 3, C: 2 * D, D, G: 6 },
    scalars: { accumulate: flags },
  })),
  rope: [{ lengths: { N: 3, C: 16, F: 4 }, scalars: { headDim: [8], backward: flags } }],
  attention: everyHeadDim,
  attentionBackward: everyHeadDim,
  cachedAttention: everyHeadDim,
  sample: [30, 3000].map((V) => ({
    lengths: { S: 3, V },
    scalars: { temperature: flags, topK: [0, 5], topP: [0.5, 1], minP: [0] },
  })),
  tokenLogProbs: rows,
  tokenLogProbsBackward: rows,
  tokenLogProbsPartial: rows,
  linearTokenLogProbs: rows.slice(0, 1),
  linearTokenLogProbsBackward: rows.slice(0, 1),
  groupAdvantages: [{ lengths: { B: 6, G: 2 }, scalars: { baseline: [0, 1, 2], scale: [0, 1, 2], epsilon: [1e-4] } }],
  policyLoss: [2, 6].map((L) => ({
    lengths: { N: 6, B: 2, L, T: policyStatisticCount },
    scalars: { offPolicyMaskThreshold: [Number.POSITIVE_INFINITY] },
  })),
  policyLossFromLogits: [
    {
      lengths: { N: 6, V: 30, B: 2, L: 2, T: policyStatisticCount },
      scalars: { temperature: [1], offPolicyMaskThreshold: [Number.POSITIVE_INFINITY] },
    },
  ],
  entropyThreshold: [{ lengths: { N: 6 }, scalars: { topEntropyQuantile: [0.2] } }],
  adamw: [{ lengths: { P: 8 }, scalars: { step: [1] } }],
};

/** Every choice of one value of each. */
function combinations(choices: Choices): Record<string, number>[] {
  return Object.entries(choices).reduce<Record<string, number>[]>(
    (all, [name, values]) => all.flatMap((one) => values.map((value) => ({ ...one, [name]: value }))),
    [{}],
  );
}

/** What was said against the shaders of a device, and the code of all. */
function recordShaders(device: GPUDevice) {
  const codes: string[] = [];
  const complaints: Promise<string[]>[] = [];
  const createModule = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) => {
    codes.push(descriptor.code);
    const module = createModule(descriptor);
    const label = `${descriptor.label}: `;
    complaints.push(module.getCompilationInfo().then(({ messages }) => messages.map(({ message }) => label + message)));
    return module;
  };
  const createPipeline = device.createComputePipeline.bind(device);
  device.createComputePipeline = (descriptor) => {
    device.pushErrorScope('validation');
    const pipeline = createPipeline(descriptor);
    const label = `${descriptor.label}: `;
    complaints.push(device.popErrorScope().then((error) => (error ? [label + error.message] : [])));
    return pipeline;
  };
  return { codes, complaints: async () => (await Promise.all(complaints.splice(0))).flat() };
}

// Compiles and checks as for a GPU, and computes nothing.
const adapter = await loadDawn('backend=null')
  .then((gpu) => gpu.requestAdapter())
  .catch(() => null);

describe.skipIf(!adapter)("every shader compiles on Dawn's null backend", () => {
  let device: GPUDevice;
  let shaders: ReturnType<typeof recordShaders>;
  beforeAll(async () => {
    const requiredFeatures = [...adapter!.features] as GPUFeatureName[];
    expect(requiredFeatures).toEqual(expect.arrayContaining(['subgroups', 'shader-f16']));
    device = await adapter!.requestDevice({ requiredFeatures });
    shaders = recordShaders(device);
  });
  afterAll(() => device?.destroy());

  /** Runs an operation; `together` puts all its tensors into one buffer. */
  function run(
    backend: WebGpuBackend,
    operation: OperationName,
    { lengths }: Setting,
    scalars: Record<string, number>,
    dtypes: Record<string, DType | null>,
    together: boolean,
  ): void {
    const page = 2 ** 16;
    const { tensors: specs } = parsedOperations[operation];
    const whole = together ? backend.allocate(page * specs.length) : 0;
    const storages = [whole];
    const tensors = specs.map(({ name, dims }, i): TensorView | null => {
      const dtype = dtypes[name];
      if (!dtype) return null;
      const shape = (dims ?? [{ kind: 'literal', symbol: '', constant: 5 }]).map(({ kind, symbol, constant }, d) => {
        if (kind === 'literal') return constant;
        return (lengths[kind === 'any' ? `${name}.${d}` : symbol] ?? 4) + constant;
      });
      const bytes = shape.reduce((product, length) => product * length, bytesPerElement[dtype]);
      const storage = together ? whole : backend.allocate(bytes);
      storages.push(storage);
      return { storage, byteOffset: together ? i * page : 0, dtype, shape, rowStride: shape.at(-1)! };
    });
    backend.run(
      operation,
      tensors,
      operations[operation].scalars.map((name) => scalars[name] ?? 0),
    );
    for (const storage of new Set(storages)) if (storage) backend.release(storage);
  }

  /** Every setting, every choice of optional tensors, every dtype for all tensors at once; then one tensor of another. */
  function runEveryVariant(abilities: Abilities): void {
    const backend = new WebGpuBackend(device, 'null', {}, { shared: true, abilities });
    for (const operation of Object.keys(operations) as OperationName[]) {
      const { tensors } = parsedOperations[operation];
      const all = settings[operation] ?? [{ lengths: {} }];
      const fitting = (allowed: readonly DType[], dtype: DType) => (allowed.includes(dtype) ? dtype : allowed[0]!);
      const used = [...new Set(tensors.flatMap(({ dtypes }) => dtypes))];
      const optional = Object.fromEntries(tensors.flatMap((x) => (x.optional ? [[x.name, flags]] : [])));
      for (const setting of all) {
        for (const scalars of combinations(setting.scalars ?? {})) {
          for (const given of combinations(optional)) {
            for (const dtype of used) {
              const dtypes = Object.fromEntries(
                tensors.map((x) => [x.name, given[x.name] === 0 ? null : fitting(x.dtypes, dtype)]),
              );
              for (const together of [false, true]) run(backend, operation, setting, scalars, dtypes, together);
            }
          }
        }
      }
      const [first] = combinations(all[0]!.scalars ?? {});
      for (const dtype of used) {
        for (const { name, dtypes: others } of tensors) {
          for (const other of others.filter((one) => one !== dtype)) {
            const dtypes = Object.fromEntries(tensors.map((x) => [x.name, fitting(x.dtypes, dtype)]));
            run(backend, operation, all[0]!, first!, { ...dtypes, [name]: other }, false);
          }
        }
      }
    }
    backend.close();
  }

  const extents: [string, Abilities][] = [
    // No workgroup is smaller than 32 threads, so that all that reduce do so in subgroups.
    ['with every feature', { subgroups: { least: 8, most: 32 }, f16: true }],
    ['with no feature', leastAbilities],
  ];

  test.each(extents)(
    '%s',
    async (_, abilities) => {
      const before = shaders.codes.length;
      runEveryVariant(abilities);
      expect(await shaders.complaints()).toEqual([]);
      const codes = shaders.codes.slice(before);
      const using = (text: string) => codes.some((code) => code.includes(text));
      expect([using('enable subgroups'), using('enable f16')]).toEqual([abilities.subgroups !== null, abilities.f16]);
    },
    300_000,
  );

  test('what asks whether f16 is exact', async () => {
    await convertsF16Exactly(device);
    expect(await shaders.complaints()).toEqual([]);
  });

  test('every file of kernels/wgsl was part of one', () => {
    const code = [...new Set(shaders.codes)].join('\n');
    const parts = (text: string) => text.split(/NAME|VALUE/).filter((part) => part.trim()); // reduce.wgsl is filled in
    const missing = Object.entries(wgslSources).filter(([, text]) => !parts(text).every((part) => code.includes(part)));
    expect(missing.map(([name]) => name)).toEqual([]);
  });

  test('a shader that does not compile, and one beyond a limit, are found out', async () => {
    const backend = new WebGpuBackend(device, 'null', {}, { shared: true });
    const storage = backend.allocate(16);
    const out: TensorView = { storage, byteOffset: 0, dtype: 'f32', shape: [4], rowStride: 4 };
    const elements = { parameters: { u32: { count: 4, columns: 4 }, f32: { value: 1 } }, workgroups: 1 };
    backend.dispatch({ ...elements, sources: ['fill', 'elementwise'], tensors: { out }, writes: [] });
    expect((await shaders.complaints()).join()).toMatch(/fill, elementwise[\s\S]*unresolved call target 'store_out'/);
    backend.dispatch({
      sources: ['rms_norm', 'rms_norm_forward'],
      reductions: { sum: 'f32' },
      constants: { THREADS: 512, LANES: 4, HAS_INVERSE_RMS: false },
      parameters: { u32: { columns: 4, group: 4, groups: 1 }, f32: { epsilon: 1 } },
      tensors: { source: out, weight: out, out, inverseRms: 'no f32' },
      writes: ['out', 'inverseRms'],
      workgroups: 1,
    });
    expect((await shaders.complaints()).join()).toMatch(/rms_norm_forward[\s\S]*512/);
    backend.close();
  });
});
