import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { DType } from '../../src/backend/backend.js';
import { decode, encode } from '../../src/dtype.js';
import { GrpoError, KernelError } from '../../src/errors.js';
import {
  tokenLogProbs,
  tokenLogProbsBackward,
  tokenLogProbsMerge,
  tokenLogProbsPartial,
} from '../../src/kernels/log-probs.js';
import type { Device, Tensor } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { gradientTolerance, logProbTolerance, randomNumbers, withScaledRow, worstRow } from '../reference/compare.js';
import { referenceRow, referenceRowGradient } from '../reference/log-probs.js';
import { suiteDevice } from '../suite-device.js';

interface Case {
  name: string;
  vocab: number;
  logits: (number | string)[];
  targets: number[];
  temperature: number;
  softcap: number;
  logProbs: (number | string)[];
  entropy: number[];
  logSumExp: (number | string)[];
  gradLogProbs: number[];
  gradEntropy: number[];
  gradLogitsOfLogProbs: number[];
  gradLogitsOfBoth: number[];
}

const fixture = new URL('../fixtures/kernels/log-probs.json', import.meta.url);
const { cases } = JSON.parse(readFileSync(fixture, 'utf8')) as { cases: Case[] };
const devices = (await testDevices({ features: true })).filter(({ name }) => !name.endsWith('openblas'));

interface Input {
  logits: ArrayLike<number>;
  vocab: number;
  targets: readonly number[];
  dtype?: Exclude<DType, 'i32'>;
  temperature?: number;
  softcap?: number;
  g?: readonly number[];
  h?: readonly number[] | null;
  inPlace?: boolean;
}

/** Forward and backward, read back, with nothing left on the device. */
async function run(device: Device, input: Input) {
  const { vocab, targets, dtype = 'f32', temperature = 1, softcap = 0, inPlace = false } = input;
  const rows = targets.length;
  const logits = device.tensor(Float32Array.from(input.logits), [rows, vocab], dtype);
  const forward = tokenLogProbs(logits, targets, { temperature, softcap });
  const gradLogProbs = device.tensor(Float32Array.from(input.g ?? new Array(rows).fill(1)), [rows]);
  const gradEntropy = input.h ? device.tensor(Float32Array.from(input.h), [rows]) : null;
  const gradLogits = tokenLogProbsBackward(logits, targets, {
    ...forward,
    gradLogProbs,
    gradEntropy,
    temperature,
    softcap,
    inPlace,
  });
  const read = async (tensor: Tensor) => (await tensor.read()) as Float32Array;
  const result = {
    logProbs: await read(forward.logProbs),
    entropy: await read(forward.entropy),
    logSumExp: await read(forward.logSumExp),
    gradLogits: await read(gradLogits),
  };
  for (const tensor of [logits, ...Object.values(forward), gradLogProbs, gradEntropy, gradLogits]) tensor?.dispose();
  return result;
}

/** The same in float64, on the logits as their dtype stores them. */
function truth(input: Input) {
  const { vocab, targets, dtype = 'f32', temperature = 1, softcap = 0, g, h } = input;
  const bytes = encode(Float32Array.from(input.logits), dtype);
  const stored = decode(
    bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer,
    dtype,
  );
  const row = (n: number) => stored.subarray(n * vocab, (n + 1) * vocab);
  const softmax = { temperature, softcap };
  return {
    rows: targets.map((target, n) => referenceRow(row(n), target, softmax)),
    gradLogits: targets.flatMap((target, n) => [
      ...referenceRowGradient(row(n), target, softmax, g?.[n] ?? 1, h?.[n] ?? 0),
    ]),
  };
}

async function expectTruth(device: Device, input: Input) {
  const actual = await run(device, input);
  const expected = truth(input);
  expected.rows.forEach((row, n) => {
    const tolerance = logProbTolerance(row.logSumExp);
    expect(Math.abs(actual.logProbs[n]! - row.logProb), `log-prob ${n}`).toBeLessThanOrEqual(tolerance);
    expect(Math.abs(actual.logSumExp[n]! - row.logSumExp), `log-sum-exp ${n}`).toBeLessThanOrEqual(tolerance);
    expect(Math.abs(actual.entropy[n]! - row.entropy), `entropy ${n}`).toBeLessThanOrEqual(4e-6);
    expect(actual.logProbs[n]).toBeLessThanOrEqual(0);
    expect(actual.entropy[n]).toBeGreaterThanOrEqual(0);
  });
  const tolerance = gradientTolerance[input.dtype ?? 'f32'];
  expect(worstRow(actual.gradLogits, expected.gradLogits, input.vocab)).toBeLessThanOrEqual(tolerance);
  return actual;
}

function randomInput(rows: number, vocab: number, scale = 3, seed = 1): Input & { g: number[]; h: number[] } {
  const next = randomNumbers(seed + rows * 31 + vocab);
  const bell = () => (next() + next() + next()) * scale;
  return {
    logits: Float32Array.from({ length: rows * vocab }, bell),
    vocab,
    targets: Array.from({ length: rows }, () => Math.floor((next() + 1) * 0.5 * vocab)),
    g: Array.from({ length: rows }, () => next() + 1.5),
    h: Array.from({ length: rows }, () => next() * 0.3),
  };
}

describe.each(devices)('$name', ({ open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  describe('agrees with PyTorch', () => {
    test.each(cases)('$name', async (c) => {
      const input = { ...c, logits: Float32Array.from(c.logits, Number), g: c.gradLogProbs };
      const alone = await run(device, input);
      const both = await run(device, { ...input, h: c.gradEntropy });
      c.targets.forEach((_, n) => {
        const tolerance = logProbTolerance(Number(c.logSumExp[n]));
        expect(Math.abs(alone.logProbs[n]! - Number(c.logProbs[n]))).toBeLessThanOrEqual(tolerance);
        expect(Math.abs(alone.entropy[n]! - c.entropy[n]!)).toBeLessThanOrEqual(4e-6);
      });
      expect(worstRow(alone.gradLogits, c.gradLogitsOfLogProbs, c.vocab)).toBeLessThanOrEqual(gradientTolerance.f32);
      expect(worstRow(both.gradLogits, c.gradLogitsOfBoth, c.vocab)).toBeLessThanOrEqual(gradientTolerance.f32);
    });
  });

  test.each(['f32', 'bf16', 'f16'] as const)('agrees with the reference for %s logits', async (dtype) => {
    await expectTruth(device, { ...randomInput(5, 1000), dtype });
    await expectTruth(device, { ...randomInput(9, 129), dtype, temperature: 0.7 });
    await expectTruth(device, { ...randomInput(3, 77, 20), dtype, softcap: 30, temperature: 1.3 });
  });

  test('targets at the ends and at the edges of chunks and vectors', async () => {
    const vocab = 9001;
    const targets = [0, vocab - 1, 4095, 4096, 8191, 8192, 15, 16, 4097];
    const { logits, g, h } = randomInput(targets.length, vocab);
    await expectTruth(device, { logits, vocab, targets, g, h });
  });

  test.each([1, 2, 3, 15, 17, 63, 65, 4095, 4097])('a vocabulary of %i', async (vocab) => {
    await expectTruth(device, randomInput(3, vocab));
  });

  test('a negative control: a row of the gradient off by 2 % fails each tolerance', async () => {
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      const input = { ...randomInput(4, 300), dtype };
      const { gradLogits } = truth(input);
      const spoiled = withScaledRow((await run(device, input)).gradLogits, 300, 2, 1.02);
      expect(worstRow(spoiled, gradLogits, 300)).toBeGreaterThan(gradientTolerance[dtype]);
    }
  });

  test('-inf entropy: masked logits have p = 0 and add nothing to entropy or gradient', async () => {
    const logits = [-Infinity, 1, -Infinity, 2, 0.5, -Infinity];
    const { entropy, logProbs, gradLogits } = await run(device, { logits, vocab: 6, targets: [3], h: [1] });
    const kept = await run(device, { logits: [1, 2, 0.5], vocab: 3, targets: [1], h: [1] });
    expect(entropy[0]).toBeCloseTo(kept.entropy[0]!, 6);
    expect(logProbs[0]).toBeCloseTo(kept.logProbs[0]!, 6);
    expect([0, 2, 5].map((v) => Math.abs(gradLogits[v]!))).toEqual([0, 0, 0]);
  });

  test('leading -inf tile: a row whose first chunks are all -inf', async () => {
    const vocab = 4096 * 2 + 100;
    const { logits, g, h } = randomInput(2, vocab);
    const masked = Float32Array.from(logits, (x, i) => (i % vocab < 8192 ? -Infinity : x));
    await expectTruth(device, { logits: masked, vocab, targets: [8200, vocab - 1], g, h });
  });

  test('an all-equal row has entropy log V and no entropy gradient', async () => {
    for (const [vocab, value] of [
      [8, 0],
      [1000, -3.7],
      [5000, 5e4],
    ] as const) {
      const logits = new Float32Array(vocab).fill(value);
      const result = await run(device, { logits, vocab, targets: [1], g: [0], h: [1] });
      expect(result.entropy[0]).toBe(Math.fround(Math.log(vocab)));
      expect(result.gradLogits.every((x) => Math.abs(x) === 0)).toBe(true);
    }
  });

  test('a one-hot row has entropy 0 and log-prob 0, not a rounding error of either sign', async () => {
    const logits = [-Infinity, 7, -Infinity, -Infinity];
    const { entropy, logProbs, gradLogits } = await run(device, { logits, vocab: 4, targets: [1], g: [2], h: [3] });
    expect(entropy[0]).toBe(0);
    expect(Math.abs(logProbs[0]!)).toBe(0);
    expect(gradLogits.every((x) => Math.abs(x) === 0)).toBe(true);
  });

  test('a confident row keeps the digits of g (1 - p)', async () => {
    const vocab = 500;
    const { logits } = randomInput(1, vocab, 0.5);
    const peaked = Float32Array.from(logits, (x, i) => (i === 7 ? 18 : x));
    const input = { logits: peaked, vocab, targets: [7], g: [1] };
    const { gradLogits } = await expectTruth(device, input);
    expect(gradLogits[7]).toBeGreaterThan(0);
    expect(Math.abs(gradLogits[7]! / truth(input).gradLogits[7]! - 1)).toBeLessThan(1e-5);
  });

  test.each([5e4, -5e4, 1e4])('logits around %d keep their log-probs', async (offset) => {
    const { logits, vocab, targets, g, h } = randomInput(3, 200, 1);
    const shifted = Float32Array.from(logits, (x) => x + offset);
    const input = { logits: shifted, vocab, targets, g, h };
    const { logProbs } = await expectTruth(device, input);
    truth(input).rows.forEach(({ logProb }, n) => {
      expect(Math.abs(logProbs[n]! - logProb)).toBeLessThan(4e-6);
    });
  });

  test('temperature != 1 with an entropy gradient: both belong to the same distribution', async () => {
    for (const temperature of [0.25, 0.9, 3]) await expectTruth(device, { ...randomInput(4, 333), temperature });
  });

  test('NaN and +inf make NaN in their row only', async () => {
    const { logits, vocab, targets, h } = randomInput(9, 5000);
    const clean = await run(device, { logits, vocab, targets, h });
    const spoiled = Float32Array.from(logits);
    spoiled[vocab + 4999] = Number.NaN;
    spoiled[3 * vocab] = Infinity;
    const actual = await run(device, { logits: spoiled, vocab, targets, h });
    targets.forEach((_, n) => {
      const row = (x: Float32Array) => x.subarray(n * vocab, (n + 1) * vocab);
      if (n === 1 || n === 3) {
        for (const key of ['logProbs', 'entropy', 'logSumExp'] as const) expect(actual[key][n]).toBeNaN();
        expect(row(actual.gradLogits).some(Number.isNaN)).toBe(true);
      } else {
        for (const key of ['logProbs', 'entropy', 'logSumExp'] as const) expect(actual[key][n]).toBe(clean[key][n]);
        expect(row(actual.gradLogits)).toEqual(row(clean.gradLogits));
      }
    });
  });

  test('adding a constant to a row changes nothing but log-sum-exp', async () => {
    const { logits, vocab, targets, h } = randomInput(3, 400);
    const coarse = Float32Array.from(logits, (x) => Math.round(x * 64) / 64);
    const moved = await run(device, { logits: coarse.map((x) => x + 32), vocab, targets, h });
    const still = await run(device, { logits: coarse, vocab, targets, h });
    expect(moved.logProbs).toEqual(still.logProbs);
    expect(moved.entropy).toEqual(still.entropy);
    expect(moved.gradLogits).toEqual(still.gradLogits);
  });

  test('a row has the same bits alone, in a batch and with any number of threads', async () => {
    const vocab = 9001;
    const many = randomInput(11, vocab);
    const batch = await run(device, many);
    const threads = await Promise.all([1, 3].map((count) => open(count)));
    for (const other of [device, ...threads]) {
      for (const n of [0, 10]) {
        const alone = await run(other, {
          logits: (many.logits as Float32Array).subarray(n * vocab, (n + 1) * vocab),
          vocab,
          targets: [many.targets[n]!],
          g: [many.g[n]!],
          h: [many.h[n]!],
        });
        for (const key of ['logProbs', 'entropy', 'logSumExp'] as const) expect(alone[key][0]).toBe(batch[key][n]);
        expect(alone.gradLogits).toEqual(batch.gradLogits.subarray(n * vocab, (n + 1) * vocab));
      }
      expect(await run(other, many)).toEqual(batch);
    }
    for (const other of threads) other.close();
  });

  test('in place gives the same bits, and a second backward is an error', async () => {
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      const input = { ...randomInput(6, 5000), dtype };
      expect(await run(device, { ...input, inPlace: true })).toEqual(await run(device, input));
    }
    const logits = device.tensor(new Float32Array(10), [2, 5]);
    const targets = [1, 2];
    const forward = tokenLogProbs(logits, targets);
    const gradLogProbs = device.tensor([1, 1], [2]);
    const backward = () => tokenLogProbsBackward(logits, targets, { ...forward, gradLogProbs, inPlace: true });
    expect(backward()).toBe(logits);
    expect(backward).toThrow(expect.objectContaining({ code: 'GRPO_CONSUMED' }));
    expect(backward).toThrow(GrpoError);
    logits.write(new Float32Array(10));
    for (const tensor of Object.values(tokenLogProbs(logits, targets))) tensor.dispose();
    expect(backward()).toBe(logits);
    for (const tensor of [logits, gradLogProbs, ...Object.values(forward)]) tensor.dispose();
  });

  test('rows without upstream gradient are zeros and are not read', async () => {
    const { logits, vocab, targets } = randomInput(7, 300);
    const unreadable = Float32Array.from(logits, (x, i) => (Math.floor(i / vocab) === 4 ? Number.NaN : x));
    const g = targets.map((_, n) => (n === 4 ? 0 : 1));
    for (const h of [null, targets.map(() => 0)]) {
      const { gradLogits } = await run(device, { logits: unreadable, vocab, targets, g, h });
      const row = gradLogits.subarray(4 * vocab, 5 * vocab);
      expect(row).toEqual(new Float32Array(vocab));
      expect(gradLogits.some(Number.isNaN)).toBe(false);
    }
  });

  test.each([9, 2])('of %i rows those that are masked are zeros and are not read', async (count) => {
    const vocab = 20000;
    const { logits, targets } = randomInput(count, vocab);
    const mask = targets.map((_, n) => (n % 3 === 1 ? 0 : 1));
    const spoiled = Float32Array.from(logits, (x, i) => (mask[Math.floor(i / vocab)] === 0 ? Number.NaN : x));
    const whole = device.tensor(logits as Float32Array, [count, vocab]);
    const holes = device.tensor(spoiled, [count, vocab]);
    const [all, some] = [tokenLogProbs(whole, targets), tokenLogProbs(holes, targets, { mask })];
    for (const key of ['logProbs', 'entropy', 'logSumExp'] as const) {
      const expected = await all[key].read();
      expect(await some[key].read()).toEqual(expected.map((x, n) => (mask[n] === 0 ? 0 : x)));
    }
    for (const tensor of [whole, holes, ...Object.values(all), ...Object.values(some)]) tensor.dispose();
  });

  test('a large output, written past the caches, has the same values', async () => {
    const input = randomInput(300, 9000);
    const large = await run(device, input);
    const n = 299;
    const alone = await run(device, {
      ...input,
      logits: (input.logits as Float32Array).subarray(n * 9000),
      targets: input.targets.slice(n),
      g: input.g.slice(n),
      h: input.h.slice(n),
    });
    expect(large.gradLogits.subarray(n * 9000)).toEqual(alone.gradLogits);
  });

  test('rows with a stride', async () => {
    const { logits, vocab, targets, h } = randomInput(4, 100);
    const wide = device.tensor(new Float32Array(4 * 150).fill(9), [4, 150]);
    const view = wide.view([4, 100], 20, 150);
    for (let n = 0; n < 4; n++) {
      const row = wide.view([100], n * 150 + 20);
      row.write((logits as Float32Array).subarray(n * 100, (n + 1) * 100));
      row.dispose();
    }
    const expected = await run(device, { logits, vocab, targets, h });
    const forward = tokenLogProbs(view, targets);
    const gradLogProbs = device.tensor([1, 1, 1, 1], [4]);
    const gradEntropy = device.tensor(h, [4]);
    tokenLogProbsBackward(view, targets, { ...forward, gradLogProbs, gradEntropy, inPlace: true });
    expect(await forward.logProbs.read()).toEqual(expected.logProbs);
    const all = (await wide.read()) as Float32Array;
    for (let n = 0; n < 4; n++) {
      const row = all.subarray(n * 150, (n + 1) * 150);
      expect(row.subarray(20, 120)).toEqual(expected.gradLogits.subarray(n * 100, (n + 1) * 100));
      expect([...row.subarray(0, 20), ...row.subarray(120)].every((x) => x === 9)).toBe(true);
    }
    for (const tensor of [wide, view, gradLogProbs, gradEntropy, ...Object.values(forward)]) tensor.dispose();
  });

  test('more than 65,535 rows', async () => {
    const rows = 70_000;
    const { logits, targets } = randomInput(rows, 3);
    const { logProbs } = await run(device, { logits, vocab: 3, targets });
    for (const n of [0, 65_536, rows - 1]) {
      const { logProb } = referenceRow((logits as Float32Array).subarray(n * 3, n * 3 + 3), targets[n]!, {
        temperature: 1,
        softcap: 0,
      });
      expect(logProbs[n]).toBeCloseTo(logProb, 5);
    }
  });

  test('rows that lie beyond 2^31 elements', async ({ skip }) => {
    const stride = 2 ** 30 + 64;
    const most = Number(device.backend.details.maxBufferSize ?? Number.POSITIVE_INFINITY);
    skip(most < 2 * (2 * stride + 64), `the adapter's buffers end at ${most} bytes`);
    const huge = device.empty([2 * stride + 64], 'bf16');
    const values = [1, 2, 3, 0.5];
    for (let n = 0; n < 3; n++) {
      const row = huge.view([4], n * stride);
      row.write(values.map((x) => x * (n + 1)));
      row.dispose();
    }
    const logits = huge.view([3, 4], 0, stride);
    const forward = tokenLogProbs(logits, [0, 1, 2]);
    const logProbs = await forward.logProbs.read();
    for (let n = 0; n < 3; n++) {
      const row = values.map((x) => x * (n + 1));
      expect(logProbs[n]).toBeCloseTo(referenceRow(row, n, { temperature: 1, softcap: 0 }).logProb, 5);
    }
    for (const tensor of [huge, logits, ...Object.values(forward)]) tensor.dispose();
  });

  test('no rows', async () => {
    const result = await run(device, { logits: [], vocab: 5, targets: [] });
    expect(result.logProbs.length).toBe(0);
  });

  test('a target tensor outside the vocabulary is an error, and nothing is written', async () => {
    for (const target of [-1, 5]) {
      const logits = device.tensor(new Float32Array(10), [2, 5]);
      const targets = device.tensor([0, target], [2], 'i32');
      const forward = tokenLogProbs(logits, targets);
      await expect(forward.logProbs.read()).rejects.toThrow(KernelError);
      await expect(forward.logProbs.read()).rejects.toThrow(new RegExp(`targets\\[1\\].*0 to 4.*${target}`));
      for (const tensor of [logits, targets, ...Object.values(forward)]) tensor.dispose();
    }
  });

  describe('a vocabulary split into slices', () => {
    const vocab = 700;
    const cuts = [0, 3, 250, 251, 700];
    const softmax = { temperature: 0.8, softcap: 20 };

    async function merged(order: number[], input: Input) {
      const { logits, targets } = input;
      const whole = device.tensor(Float32Array.from(logits), [targets.length, vocab]);
      const partials: Tensor[] = [];
      const joined = device.empty([order.length, targets.length, 4]);
      order.forEach((slice, p) => {
        const [from, to] = [cuts[slice]!, cuts[slice + 1]!];
        const view = whole.view([targets.length, to - from], from, vocab);
        const partial = tokenLogProbsPartial(view, targets, { ...softmax, vocabStart: from, vocabSize: vocab });
        const place = joined.view([targets.length, 4], p * targets.length * 4);
        device.run('copy', { in: partial, out: place });
        partials.push(view, partial, place);
      });
      const result = tokenLogProbsMerge(joined);
      const read = await Promise.all([result.logProbs, result.entropy, result.logSumExp].map((t) => t.read()));
      for (const tensor of [whole, joined, ...partials, ...Object.values(result)]) tensor.dispose();
      return read;
    }

    test('the merged log-probs agree with the reference, to the same bits in any order of the slices', async () => {
      const input = { ...randomInput(6, vocab, 8), targets: [0, 2, 3, 250, 251, 699], ...softmax };
      const first = await merged([0, 1, 2, 3], input);
      for (const order of [
        [3, 2, 1, 0],
        [2, 0, 3, 1],
        [1, 3, 0, 2],
      ]) {
        expect(await merged(order, input)).toEqual(first);
      }
      truth(input).rows.forEach(({ logProb, entropy, logSumExp }, n) => {
        expect(Math.abs(first[0]![n]! - logProb)).toBeLessThanOrEqual(logProbTolerance(logSumExp));
        expect(Math.abs(first[1]![n]! - entropy)).toBeLessThanOrEqual(4e-6);
        expect(Math.abs(first[2]![n]! - logSumExp)).toBeLessThanOrEqual(logProbTolerance(logSumExp));
      });
    });

    test('a slice that is all -inf adds nothing', async () => {
      const input = { ...randomInput(6, vocab, 8), ...softmax, softcap: 0 };
      const logits = Float32Array.from(input.logits, (x, i) => (i % vocab < 250 ? -Infinity : x));
      const targets = [250, 300, 400, 500, 600, 699];
      const { rows } = truth({ ...input, logits, targets });
      const whole = device.tensor(logits, [6, vocab]);
      const parts = device.empty([2, 6, 4]);
      const views: Tensor[] = [];
      [
        [0, 250],
        [250, 700],
      ].forEach(([from, to], p) => {
        const view = whole.view([6, to! - from!], from, vocab);
        const options = { temperature: softmax.temperature, vocabStart: from!, vocabSize: vocab };
        const partial = tokenLogProbsPartial(view, targets, options);
        const place = parts.view([6, 4], p * 24);
        device.run('copy', { in: partial, out: place });
        views.push(view, partial, place);
      });
      const result = tokenLogProbsMerge(parts);
      const logProbs = await result.logProbs.read();
      const entropy = await result.entropy.read();
      rows.forEach((row, n) => {
        expect(Math.abs(logProbs[n]! - row.logProb)).toBeLessThanOrEqual(logProbTolerance(row.logSumExp));
        expect(Math.abs(entropy[n]! - row.entropy)).toBeLessThanOrEqual(4e-6);
      });
      for (const tensor of [whole, parts, ...views, ...Object.values(result)]) tensor.dispose();
    });

    test('the gradients of the slices are the slices of the gradient', async () => {
      const input = { ...randomInput(6, vocab, 2), targets: [0, 2, 3, 250, 251, 699], ...softmax };
      const expected = truth(input).gradLogits;
      const whole = device.tensor(Float32Array.from(input.logits), [6, vocab]);
      const forward = tokenLogProbs(whole, input.targets, softmax);
      const gradLogProbs = device.tensor(input.g, [6]);
      const gradEntropy = device.tensor(input.h, [6]);
      for (let slice = 0; slice + 1 < cuts.length; slice++) {
        const [from, to] = [cuts[slice]!, cuts[slice + 1]!];
        const view = whole.view([6, to - from], from, vocab);
        const options = { ...forward, ...softmax, gradLogProbs, gradEntropy, vocabStart: from, vocabSize: vocab };
        tokenLogProbsBackward(view, input.targets, { ...options, inPlace: true });
        view.dispose();
      }
      expect(worstRow(await whole.read(), expected, vocab)).toBeLessThanOrEqual(gradientTolerance.f32);
      for (const tensor of [whole, gradLogProbs, gradEntropy, ...Object.values(forward)]) tensor.dispose();
    });
  });
});
