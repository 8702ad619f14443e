import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DType } from '../../src/backend/backend.js';
import { GrpoError } from '../../src/errors.js';
import { entropyThreshold } from '../../src/kernels/entropy-threshold.js';
import { tokenLogProbs, tokenLogProbsBackward } from '../../src/kernels/log-probs.js';
import { klEstimators, lossTypes, type PolicyLossOptions, policyLoss } from '../../src/kernels/policy-loss.js';
import { policyLossFromLogits } from '../../src/kernels/policy-loss-from-logits.js';
import type { Device, Tensor } from '../../src/tensor.js';
import { openCudaOnCpu, testDevices } from '../devices.js';
import { gradientTolerance, randomNumbers, withScaledRow, worstRow } from '../reference/compare.js';
import { referenceRow, referenceRowGradient } from '../reference/log-probs.js';
import { referencePolicyLoss } from '../reference/policy-loss.js';
import { suiteDevice } from '../suite-device.js';

/** Where the terms of a token's gradient cancel, that of its row is as far off as they are. */
const tolerance = 4 * gradientTolerance.f32;

const devices = (await testDevices()).filter(({ name }) => !name.endsWith('openblas'));
// A row does not fit on the chip: the kernel that reads it twice.
if (devices.some(({ name }) => name.startsWith('cuda-on-cpu'))) {
  devices.push({ name: 'cuda-on-cpu of little shared memory', open: () => openCudaOnCpu({ shared: 1024 }) });
}

interface Batch {
  logits: Float32Array;
  vocab: number;
  targets: number[];
  oldLogProbs?: number[];
  refLogProbs?: number[];
  rolloutLogProbs?: number[];
  advantages: number[];
  mask?: number[];
  sequenceOffsets: number[];
}

interface Layout {
  dtype?: Exclude<DType, 'i32'>;
  temperature?: number;
  softcap?: number;
  inPlace?: boolean;
  /** Elements between two rows beyond the vocabulary, and before the first. */
  gap?: number;
  gradType?: Exclude<DType, 'i32'>;
}

/** Ragged sequences, an empty one among them, some tokens masked, one advantage of 0. */
function randomBatch(seed: number, vocab: number, lengths = [3, 0, 4, 1]): Batch {
  const next = randomNumbers(seed * 31 + vocab);
  const count = lengths.reduce((sum, length) => sum + length, 0);
  const list = (n: number, f: () => number) => Array.from({ length: n }, () => Math.fround(f()));
  const targets = Array.from({ length: count }, () => Math.floor((next() + 1) * 0.5 * vocab));
  const logits = Float32Array.from({ length: count * vocab }, () => (next() + next() + next()) * 2);
  const own = targets.map((target, n) => {
    if (vocab > 1000) return -Math.log(vocab);
    const row = logits.subarray(n * vocab, (n + 1) * vocab);
    return referenceRow(row, target, { temperature: 1, softcap: 0 }).logProb;
  });
  const near = () => own.map((lp) => Math.fround(lp + 0.4 * next()));
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  return {
    logits,
    vocab,
    targets,
    oldLogProbs: near(),
    refLogProbs: near(),
    rolloutLogProbs: near().map((x, n) => (n === 2 ? Number.NaN : x)),
    advantages: list(lengths.length, () => next() * 2).map((a, b) => (b === lengths.length - 1 ? 0 : a)),
    mask: list(count, () => (next() > -0.5 ? 1 : 0)),
    sequenceOffsets: offsets,
  };
}

/** Logits and a place for their gradient, as `layout` wants them. */
function place(device: Device, { logits, vocab, targets }: Batch, { dtype = 'f32', gap = 0, gradType }: Layout) {
  const stride = vocab + gap;
  const values = new Float32Array(targets.length * stride + gap).fill(Number.NaN);
  targets.forEach((_, n) => {
    values.set(logits.subarray(n * vocab, (n + 1) * vocab), gap + n * stride);
  });
  const whole = device.tensor(values, [values.length], dtype);
  const view = gap === 0 ? whole.view([targets.length, vocab]) : whole.view([targets.length, vocab], gap, stride);
  const gradLogits = gradType ? device.empty([targets.length, vocab], gradType) : undefined;
  return { whole, view, gradLogits };
}

async function readAll<Name extends string>(tensors: Record<Name, Tensor | null>) {
  const read = async (tensor: Tensor | null) => {
    if (!tensor) return null;
    const whole = tensor.device.empty(tensor.shape, tensor.dtype);
    tensor.device.run('copy', { in: tensor, out: whole });
    const values = await whole.read();
    whole.dispose();
    return values;
  };
  const entries = Object.entries<Tensor | null>(tensors).map(async ([name, tensor]) => [name, await read(tensor)]);
  return Object.fromEntries(await Promise.all(entries)) as Record<Name, Float32Array>;
}

async function fused(device: Device, batch: Batch, options: PolicyLossOptions, layout: Layout = {}) {
  const { logits: _, vocab: __, ...inputs } = batch;
  const { temperature, softcap, inPlace } = layout;
  const { whole, view, gradLogits: given } = place(device, batch, layout);
  const softmax = { temperature, softcap, inPlace, gradLogits: given };
  const result = policyLossFromLogits({ ...inputs, logits: view }, { ...options, ...softmax });
  const { logProbs, entropy, logSumExp, loss, gradLogProbs, gradEntropy, statistics, gradLogits } = result;
  if (inPlace) expect(gradLogits).toBe(view);
  const tensors = { logProbs, entropy, logSumExp, loss, gradLogProbs, gradEntropy, statistics, gradLogits };
  const read = { ...(await readAll(tensors)), metrics: await result.metrics.read() };
  result.dispose();
  for (const tensor of [view, whole, given]) tensor?.dispose();
  return read;
}

/** The same by the operations that it stands for. */
async function inThreeSteps(device: Device, batch: Batch, options: PolicyLossOptions, layout: Layout = {}) {
  const { logits: _, vocab: __, targets, ...inputs } = batch;
  const { temperature, softcap } = layout;
  const { whole, view, gradLogits: given } = place(device, batch, layout);
  const forward = tokenLogProbs(view, targets, { temperature, softcap, mask: batch.mask });
  const { logProbs, entropy, logSumExp } = forward;
  const result = policyLoss({ ...inputs, logProbs, entropy }, options);
  const { loss, gradLogProbs, gradEntropy, statistics } = result;
  const gradients = { ...forward, gradLogProbs, gradEntropy, temperature, softcap, gradLogits: given };
  const gradLogits = tokenLogProbsBackward(view, targets, gradients);
  const tensors = { logProbs, entropy, logSumExp, loss, gradLogProbs, gradEntropy, statistics, gradLogits };
  const read = { ...(await readAll(tensors)), metrics: await result.metrics.read() };
  result.dispose();
  for (const tensor of [logProbs, entropy, logSumExp, gradLogits, view, whole]) tensor.dispose();
  return read;
}

type Result = Awaited<ReturnType<typeof fused>>;

/** toEqual, which is slow on long arrays, where their bits differ. */
function expectEqual(actual: Result, expected: Result) {
  const bytes = ({ buffer, byteOffset, byteLength }: Float32Array) => Buffer.from(buffer, byteOffset, byteLength);
  const { gradLogits: a, ...rest } = actual;
  const { gradLogits: b, ...others } = expected;
  if (!bytes(a).equals(bytes(b))) expect(a).toEqual(b);
  expect(rest).toEqual(others);
}

async function expectSameBits(device: Device, batch: Batch, options: PolicyLossOptions, layout: Layout = {}) {
  const actual = await fused(device, batch, options, layout);
  expectEqual(actual, await inThreeSteps(device, batch, options, layout));
  return actual;
}

/** In float64, from the definitions. */
function truth({ logits, vocab, ...batch }: Batch, options: PolicyLossOptions, layout: Layout = {}) {
  const softmax = { temperature: layout.temperature ?? 1, softcap: layout.softcap ?? 0 };
  const row = (n: number) => logits.subarray(n * vocab, (n + 1) * vocab);
  const rows = batch.targets.map((target, n) => referenceRow(row(n), target, softmax));
  const [logProbs, entropy] = [rows.map((r) => r.logProb), rows.map((r) => r.entropy)];
  const loss = referencePolicyLoss({ ...batch, logProbs, entropy }, options);
  const gradLogits = batch.targets.flatMap((target, n) => {
    // Central differences of nothing are not quite nothing.
    if (batch.mask?.[n] === 0) return new Array<number>(vocab).fill(0);
    return [...referenceRowGradient(row(n), target, softmax, loss.gradLogProbs[n]!, loss.gradEntropy[n]!)];
  });
  return { ...loss, gradLogits };
}

const plain = (lossType: (typeof lossTypes)[number]): PolicyLossOptions => ({
  lossType,
  ...(lossType === 'cispo' && { epsilonHigh: 1.1 }),
  ...(lossType === 'dr_grpo' && { maxCompletionLength: 12 }),
});
const everyKind = lossTypes.map(plain);
const extras: PolicyLossOptions[] = [
  {},
  { beta: 0.1, entropyCoefficient: 0.01, denominators: { tokens: 31, sequences: 8 } },
  { beta: 0.2, biasCorrectedKl: true, klEstimator: 'k2', delta: undefined },
  { topEntropyQuantile: 0.4, entropyCoefficient: 0.05 },
  { rolloutCorrection: { mode: 'token-truncate', cap: 1.15, min: 0.9 }, beta: 0.1, klEstimator: 'k1' },
];
/** Whose coefficients need other tokens: the operation takes the three steps itself. */
const ofSequences: PolicyLossOptions[] = [
  { importanceSamplingLevel: 'sequence', lossType: 'grpo', beta: 0.1 },
  { offPolicyMaskThreshold: 0.01 },
  { rolloutCorrection: { mode: 'sequence-mask', geometric: true } },
  { lossType: 'vespo', entropyCoefficient: 0.1 },
];
const label = (options: PolicyLossOptions) => JSON.stringify(options).replace(/["{}]/g, '');

describe.each(devices)('$name', ({ open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  test.each(everyKind.map((options) => ({ options, title: label(options) })))(
    'has the bits of three steps and agrees with the reference: $title',
    async ({ options }) => {
      for (const [i, extra] of extras.entries()) {
        const all = { ...options, ...extra };
        const batch = randomBatch(i + 1, 60);
        const actual = await expectSameBits(device, batch, all);
        const expected = truth(batch, all);
        expect(Math.abs(actual.loss[0]! - expected.loss)).toBeLessThan(1e-5);
        expect(worstRow(actual.gradLogits, expected.gradLogits, 60)).toBeLessThan(tolerance);
      }
    },
  );

  test.each(ofSequences.map((options) => ({ options, title: label(options) })))(
    'where the gradient of a token needs others: $title',
    async ({ options }) => {
      const batch = randomBatch(3, 60);
      const actual = await expectSameBits(device, batch, options);
      const { gradLogits } = truth(batch, options);
      expect(worstRow(actual.gradLogits, gradLogits, 60)).toBeLessThan(tolerance);
    },
  );

  test('a negative control: a row of the gradient off by 2 % fails the tolerance', async () => {
    const batch = { ...randomBatch(5, 60), mask: undefined, advantages: [1, 1, 1, 1] };
    const { gradLogits } = await fused(device, batch, { epsilon: 10 });
    const spoiled = withScaledRow(gradLogits, 60, 2, 1.02);
    expect(worstRow(spoiled, truth(batch, { epsilon: 10 }).gradLogits, 60)).toBeGreaterThan(tolerance);
  });

  test.each(['f32', 'bf16', 'f16'] as const)('%s logits: soft cap, temperature, in place, strides', async (dtype) => {
    const options: PolicyLossOptions = { beta: 0.1, entropyCoefficient: 0.02 };
    for (const vocab of [1, 33, 300]) {
      const batch = randomBatch(7, vocab);
      for (const softmax of [{}, { temperature: 0.7 }, { softcap: 20, temperature: 1.3 }]) {
        const apart = await expectSameBits(device, batch, options, { dtype, ...softmax });
        expectEqual(await fused(device, batch, options, { dtype, ...softmax, inPlace: true }), apart);
        expectEqual(await fused(device, batch, options, { dtype, ...softmax, gap: 1, inPlace: true }), apart);
        expectEqual(await fused(device, batch, options, { dtype, ...softmax, gap: 8 }), apart);
        const gradType = dtype === 'bf16' ? 'f32' : 'bf16';
        await expectSameBits(device, batch, options, { dtype, ...softmax, gradType });
      }
    }
  });

  test.each([9001, 12288, 20000, 70001])('a row of %i, alone and among others, whole and masked', async (vocab) => {
    const options: PolicyLossOptions = { entropyCoefficient: 0.01 };
    const batch = randomBatch(11, vocab, [2, 3]);
    for (const layout of [{}, { dtype: 'bf16', inPlace: true }, { gap: 3 }] as Layout[]) {
      const { inPlace: _, ...apart } = layout;
      const many = await fused(device, batch, options, layout);
      expectEqual(many, await inThreeSteps(device, batch, options, apart));
      const one: Batch = {
        ...batch,
        logits: batch.logits.subarray(0, vocab),
        targets: batch.targets.slice(0, 1),
        oldLogProbs: undefined,
        refLogProbs: undefined,
        rolloutLogProbs: undefined,
        mask: undefined,
        sequenceOffsets: [0, 1],
        advantages: [1],
      };
      const alone = await fused(device, one, options, layout);
      expectEqual(alone, await inThreeSteps(device, one, options, apart));
    }
  });

  test('masked rows are not read and are zeros; so are gradients of rows whose coefficient is 0', async () => {
    for (const options of [
      { epsilon: 10 },
      { importanceSamplingLevel: 'sequence', epsilon: 10 },
    ] as PolicyLossOptions[]) {
      const clean = randomBatch(13, 300);
      const mask = [1, 0, 1, 0, 1, 1, 0, 1];
      const logits = clean.logits.map((x, i) => (mask[Math.floor(i / 300)] === 0 ? Number.NaN : x));
      const actual = await fused(device, { ...clean, mask, logits }, options);
      mask.forEach((m, n) => {
        const row = actual.gradLogits.subarray(n * 300, (n + 1) * 300);
        for (const key of ['logProbs', 'entropy', 'logSumExp', 'gradLogProbs'] as const) {
          expect(actual[key][n] === 0, `${key} ${n}`).toBe(m === 0 || (key === 'gradLogProbs' && n === 7));
        }
        expect(row.every((x) => x === 0)).toBe(m === 0 || n === 7);
      });
      const { gradLogits } = truth({ ...clean, mask }, options);
      expect(
        worstRow(
          actual.gradLogits,
          gradLogits.map((x, i) => (i >= 2100 ? 0 : x)),
          300,
        ),
      ).toBeLessThan(tolerance);
    }
  });

  test('-inf logits, whole parts of a row among them', async () => {
    const vocab = 17000;
    const batch = randomBatch(17, vocab, [4]);
    const logits = batch.logits.map((x, i) => (i % vocab < 9000 || i % 3 === 0 ? -Infinity : x));
    const finite = (n: number, v: number) => (logits[n * vocab + v] === -Infinity ? v - 1 : v);
    const targets = [9001, 16999, 9004, 12002].map((v, n) => finite(n, v));
    const all = { ...batch, logits, targets, mask: undefined };
    const actual = await expectSameBits(device, all, { entropyCoefficient: 0.1 });
    expect(actual.gradLogits.some(Number.isNaN)).toBe(false);
    expect(actual.gradLogits.every((x, i) => logits[i] !== -Infinity || Math.abs(x) === 0)).toBe(true);
  });

  test('no tokens, no sequences, one token, a sequence without active tokens', async () => {
    const none = { logits: new Float32Array(), vocab: 5, targets: [], advantages: [], sequenceOffsets: [0] };
    await expectSameBits(device, none, {});
    await expectSameBits(device, { ...none, advantages: [1, 1], sequenceOffsets: [0, 0, 0] }, {});
    const one = randomBatch(19, 5, [1]);
    await expectSameBits(device, { ...one, mask: [1], advantages: [1] }, {});
    const { loss, gradLogits } = await expectSameBits(device, { ...one, mask: [0], advantages: [1] }, {});
    expect([...loss, ...gradLogits]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test('advantages of tokens, and a threshold of more tokens than these', async () => {
    const batch = randomBatch(23, 60);
    const next = randomNumbers(3);
    const advantages = batch.targets.map(() => Math.fround(next()));
    await expectSameBits(device, { ...batch, advantages }, { beta: 0.1 });
    const threshold = entropyThreshold([1, 2, 3, 3.5, 4], { device, topEntropyQuantile: 0.5 });
    const { logits: _, vocab: __, targets, ...rest } = batch;
    const inputs = { ...rest, entropyThreshold: threshold };
    const { whole, view } = place(device, batch, {});
    const options = { entropyCoefficient: 0.1 };
    const result = policyLossFromLogits({ ...inputs, targets, logits: view }, options);
    const { logProbs, entropy } = result;
    const steps = policyLoss({ ...inputs, logProbs, entropy }, options);
    expect(await result.gradEntropy!.read()).toEqual(await steps.gradEntropy!.read());
    expect(await result.gradLogProbs.read()).toEqual(await steps.gradLogProbs.read());
    expect(await result.statistics.read()).toEqual(await steps.statistics.read());
    for (const tensor of [result, steps, threshold, view, whole]) tensor.dispose();
  });

  test('whatever the data', async () => {
    const setting = fc.record({
      seed: fc.nat(1000),
      vocab: fc.constantFrom(1, 7, 64, 257),
      lengths: fc.array(fc.nat(6), { minLength: 1, maxLength: 4 }),
      kind: fc.constantFrom(...everyKind),
      extra: fc.constantFrom(...extras, ...ofSequences.slice(0, 3)),
      klEstimator: fc.constantFrom(...klEstimators),
      layout: fc.record({
        dtype: fc.constantFrom('f32', 'bf16', 'f16'),
        temperature: fc.constantFrom(0.8, 1),
        softcap: fc.constantFrom(0, 15),
        gap: fc.constantFrom(0, 1, 8),
      }),
      inPlace: fc.boolean(),
    });
    const property = fc.asyncProperty(
      setting,
      async ({ seed, vocab, lengths, kind, extra, klEstimator, layout, inPlace }) => {
        const options = { klEstimator, ...kind, ...extra, ...(kind.lossType === 'vespo' && vespoOnly) };
        const batch = randomBatch(seed, vocab, lengths);
        const actual = await fused(device, batch, options, { ...(layout as Layout), inPlace });
        expectEqual(actual, await inThreeSteps(device, batch, options, layout as Layout));
      },
    );
    await fc.assert(property, { numRuns: 40, seed: 1 });
  });

  test('in place the logits are consumed, and what does not fit is refused with nothing written', async () => {
    const batch = randomBatch(29, 5);
    const { logits: _, vocab: __, ...inputs } = batch;
    const { whole, view } = place(device, batch, {});
    const result = policyLossFromLogits({ ...inputs, logits: view }, { inPlace: true });
    const { gradLogProbs, logSumExp } = result;
    const backward = () => tokenLogProbsBackward(view, batch.targets, { gradLogProbs, logSumExp, inPlace: true });
    expect(() => backward()).toThrow(expect.objectContaining({ code: 'GRPO_CONSUMED' }));
    result.dispose();
    const targets = device.tensor([0, 1, 2, 3, 4, 5, 0, 0], [8], 'i32');
    const refused = policyLossFromLogits({ ...inputs, targets, logits: view });
    await expect(refused.gradLogits.read()).rejects.toThrow(GrpoError);
    await expect(refused.loss.read()).rejects.toThrow(/an index from 0 to 4 but received 5/);
    refused.dispose();
    const offsets = device.tensor([0, 3, 2, 7, 8], [5], 'i32');
    const unordered = policyLossFromLogits({ ...inputs, sequenceOffsets: offsets, logits: view });
    await expect(unordered.loss.read()).rejects.toThrow(/sequenceOffsets: expected offsets from 0 to 8/);
    unordered.dispose();
    for (const tensor of [targets, offsets, view, whole]) tensor.dispose();
  });
});

test('rows of many parts are read twice where no cluster fits the device', async ({ skip }) => {
  if (!devices.some(({ name }) => name.startsWith('cuda-on-cpu'))) skip('there is no stand-in for CUDA');
  using device = await openCudaOnCpu();
  process.env.GRPO_CUDA_ON_CPU_CLUSTERS = '0';
  try {
    await expectSameBits(device, randomBatch(31, 20000), { entropyCoefficient: 0.1 }, { dtype: 'bf16' });
  } finally {
    delete process.env.GRPO_CUDA_ON_CPU_CLUSTERS;
  }
});

/** Options that vespo refuses, switched off. */
const vespoOnly: PolicyLossOptions = { importanceSamplingLevel: 'token', rolloutCorrection: null };
