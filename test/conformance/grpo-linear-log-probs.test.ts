import { describe, expect, test } from 'vitest';
import type { DType } from '../../src/backend/backend.js';
import { decode, encode } from '../../src/dtype.js';
import { KernelError } from '../../src/errors.js';
import { linearTokenLogProbs, linearTokenLogProbsBackward, tokenLogProbs } from '../../src/kernels/log-probs.js';
import type { Device, Tensor } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import {
  gradientTolerance,
  logProbTolerance,
  randomNumbers,
  relativeError,
  withScaledRow,
  worstRow,
} from '../reference/compare.js';
import { referenceRow, referenceRowGradient } from '../reference/log-probs.js';
import { suiteDevice } from '../suite-device.js';

const devices = await testDevices();

interface Problem {
  rows: number;
  width: number;
  vocab: number;
  hidden: Float32Array;
  weight: Float32Array;
  targets: number[];
  g: number[];
  h: number[];
  dtype: Exclude<DType, 'i32'>;
  temperature: number;
  softcap: number;
}

function problem(overrides: Partial<Problem> = {}): Problem {
  const { rows = 7, width = 24, vocab = 150, dtype = 'f32', temperature = 0.8, softcap = 0 } = overrides;
  const next = randomNumbers(rows + width + vocab);
  const stored = (n: number, scale: number) => {
    const values = Float32Array.from({ length: n }, () => next() * scale);
    const bytes = encode(values, dtype) as Float32Array | Uint16Array;
    return decode(bytes.slice().buffer as ArrayBuffer, dtype) as Float32Array;
  };
  return {
    rows,
    width,
    vocab,
    dtype,
    temperature,
    softcap,
    hidden: stored(rows * width, 1),
    weight: stored(vocab * width, 0.7),
    targets: Array.from({ length: rows }, (_, n) => (n * 37) % vocab),
    g: Array.from({ length: rows }, () => Math.fround(next() + 1.2)),
    h: Array.from({ length: rows }, () => Math.fround(next() * 0.3)),
    ...overrides,
  };
}

/** Everything in float64. */
function truth({ rows, width, vocab, hidden, weight, targets, g, h, temperature, softcap }: Problem) {
  const gradHidden = new Float64Array(rows * width);
  const gradWeight = new Float64Array(vocab * width);
  const forward = targets.map((target, n) => {
    const logits = Float64Array.from({ length: vocab }, (_, v) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += hidden[n * width + i]! * weight[v * width + i]!;
      return sum;
    });
    const gradient = referenceRowGradient(logits, target, { temperature, softcap }, g[n]!, h[n]!);
    gradient.forEach((d, v) => {
      for (let i = 0; i < width; i++) {
        gradHidden[n * width + i]! += d * weight[v * width + i]!;
        gradWeight[v * width + i]! += d * hidden[n * width + i]!;
      }
    });
    return referenceRow(logits, target, { temperature, softcap });
  });
  return { forward, gradHidden, gradWeight };
}

async function run(device: Device, p: Problem, workspaceBytes?: number, frozen = false) {
  const { rows, width, vocab, temperature, softcap } = p;
  const hidden = device.tensor(p.hidden, [rows, width], p.dtype);
  const weight = device.tensor(p.weight, [vocab, width], p.dtype);
  const options = { temperature, softcap, workspaceBytes };
  const forward = linearTokenLogProbs(hidden, weight, p.targets, options);
  const gradLogProbs = device.tensor(p.g, [rows]);
  const gradEntropy = device.tensor(p.h, [rows]);
  const gradWeight = frozen ? null : device.zeros([vocab, width]);
  const { gradHidden } = linearTokenLogProbsBackward(hidden, weight, p.targets, {
    ...forward,
    ...options,
    gradLogProbs,
    gradEntropy,
    gradWeight,
  });
  const read = async (tensor: Tensor) => (await tensor.read()) as Float32Array;
  const result = {
    logProbs: await read(forward.logProbs),
    entropy: await read(forward.entropy),
    logSumExp: await read(forward.logSumExp),
    gradHidden: await read(gradHidden!),
    gradWeight: gradWeight && (await read(gradWeight)),
  };
  for (const tensor of [hidden, weight, ...Object.values(forward), gradLogProbs, gradEntropy, gradWeight, gradHidden]) {
    tensor?.dispose();
  }
  return result;
}

describe.each(devices)('$name', ({ name, open }) => {
  // OpenBLAS promises no bits from row to row.
  const builtinTest = name.endsWith('builtin') ? test : () => {};
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  test.each([
    {},
    { dtype: 'bf16' as const },
    { dtype: 'f16' as const },
    { softcap: 2, temperature: 1.3 },
    { rows: 1, vocab: 5000 },
    { rows: 40, width: 3, vocab: 2 },
  ])('agrees with the reference: %o', async (overrides) => {
    const p = problem(overrides);
    const expected = truth(p);
    const actual = await run(device, p);
    expected.forward.forEach((row, n) => {
      expect(Math.abs(actual.logProbs[n]! - row.logProb)).toBeLessThanOrEqual(logProbTolerance(row.logSumExp));
      expect(Math.abs(actual.entropy[n]! - row.entropy)).toBeLessThanOrEqual(4e-6);
    });
    // Logits and gradients of the chunk are float32 whatever the operands.
    expect(worstRow(actual.gradHidden, expected.gradHidden, p.width)).toBeLessThanOrEqual(gradientTolerance.f32);
    expect(relativeError(actual.gradWeight!, expected.gradWeight)).toBeLessThanOrEqual(gradientTolerance.f32);
  });

  test('with hidden, weight and gradHidden in bf16 the gradients are within those of bf16', async () => {
    const p = problem({ dtype: 'bf16', rows: 9, vocab: 400, width: 24 });
    const expected = truth(p);
    const hidden = device.tensor(p.hidden, [p.rows, p.width], 'bf16');
    const weight = device.tensor(p.weight, [p.vocab, p.width], 'bf16');
    const gradHidden = device.empty([p.rows, p.width], 'bf16');
    const gradWeight = device.zeros([p.vocab, p.width]);
    const gradLogProbs = device.tensor(p.g, [p.rows]);
    const gradEntropy = device.tensor(p.h, [p.rows]);
    const forward = linearTokenLogProbs(hidden, weight, p.targets, { temperature: p.temperature });
    const options = { ...forward, temperature: p.temperature, gradLogProbs, gradEntropy, gradWeight, gradHidden };
    linearTokenLogProbsBackward(hidden, weight, p.targets, options);
    const [ofHidden, ofWeight] = [await gradHidden.read(), await gradWeight.read()] as [Float32Array, Float32Array];
    expect(worstRow(ofHidden, expected.gradHidden, p.width)).toBeLessThanOrEqual(gradientTolerance.bf16);
    expect(relativeError(ofWeight, expected.gradWeight)).toBeLessThanOrEqual(gradientTolerance.bf16);
    const off = withScaledRow(ofHidden, p.width, 3, 1.02);
    expect(worstRow(off, expected.gradHidden, p.width)).toBeGreaterThan(gradientTolerance.bf16);
    const used = [hidden, weight, gradHidden, gradWeight, gradLogProbs, gradEntropy, ...Object.values(forward)];
    for (const tensor of used) tensor.dispose();
  });

  test('a negative control: a row off by 2 % fails the tolerances', async () => {
    const p = problem();
    const { gradHidden, gradWeight } = truth(p);
    const actual = await run(device, p);
    const hidden = withScaledRow(actual.gradHidden, p.width, 3, 1.02);
    expect(worstRow(hidden, gradHidden, p.width)).toBeGreaterThan(gradientTolerance.f32);
    const weight = withScaledRow(actual.gradWeight!, p.width, p.targets[3]!, 1.02);
    expect(relativeError(weight, gradWeight)).toBeGreaterThan(gradientTolerance.f32);
  });

  test('entropy gradient through the fused head is not dropped', async () => {
    const p = problem({ g: new Array(7).fill(0) });
    const expected = truth(p);
    const actual = await run(device, p);
    expect(Math.max(...expected.gradHidden.map(Math.abs))).toBeGreaterThan(0.01);
    expect(worstRow(actual.gradHidden, expected.gradHidden, p.width)).toBeLessThanOrEqual(gradientTolerance.f32);
  });

  test('a workspace of one row gives the results of a large one', async () => {
    const p = problem({ rows: 9 });
    const large = await run(device, p);
    const rowBytes = (p.vocab + p.width + 5) * 4 + p.width * 4;
    for (const bytes of [rowBytes, rowBytes * 4]) {
      const small = await run(device, p, bytes);
      if (name.endsWith('builtin')) {
        expect(small.logProbs).toEqual(large.logProbs);
        expect(small.entropy).toEqual(large.entropy);
        expect(small.gradHidden).toEqual(large.gradHidden);
      }
      expect(relativeError(small.logProbs, large.logProbs)).toBeLessThan(1e-6);
      expect(relativeError(small.gradHidden, large.gradHidden)).toBeLessThan(1e-6);
      expect(relativeError(small.gradWeight!, large.gradWeight!)).toBeLessThan(1e-6);
    }
  });

  test('a workspace below one row is an error that says what one row takes', async () => {
    const hidden = device.zeros([2, 4]);
    const weight = device.zeros([10, 4]);
    const forward = linearTokenLogProbs(hidden, weight, [0, 1], { workspaceBytes: 39 });
    await expect(forward.logProbs.read()).rejects.toThrow(KernelError);
    await expect(forward.logProbs.read()).rejects.toThrow(/workspaceBytes of at least 40/);
    for (const tensor of [hidden, weight, ...Object.values(forward)]) tensor.dispose();
  });

  test('rows without a gradient are left out: zeros for them, the same bits for the others', async () => {
    const p = problem({ rows: 8 });
    const off = [0, 3, 4, 7];
    const masked = (values: number[]) => values.map((x, n) => (off.includes(n) ? 0 : x));
    const actual = await run(device, { ...p, g: masked(p.g), h: masked(p.h) });
    const expected = truth({ ...p, g: masked(p.g), h: masked(p.h) });
    const whole = await run(device, p);
    for (let n = 0; n < 8; n++) {
      const row = (x: Float32Array) => x.subarray(n * p.width, (n + 1) * p.width);
      if (off.includes(n)) expect(row(actual.gradHidden)).toEqual(new Float32Array(p.width));
      else if (name.endsWith('builtin')) expect(row(actual.gradHidden)).toEqual(row(whole.gradHidden));
    }
    expect(relativeError(actual.gradWeight!, expected.gradWeight)).toBeLessThanOrEqual(gradientTolerance.f32);
    const none = await run(device, { ...p, g: p.g.map(() => 0), h: p.h.map(() => 0) });
    expect([...none.gradHidden, ...none.gradWeight!].every((x) => x === 0)).toBe(true);
  });

  test('a frozen head changes no other bit, and the weight gradient is added to what is there', async () => {
    const p = problem();
    const trained = await run(device, p);
    const frozen = await run(device, p, undefined, true);
    expect(frozen).toEqual({ ...trained, gradWeight: null });
    const hidden = device.tensor(p.hidden, [p.rows, p.width]);
    const weight = device.tensor(p.weight, [p.vocab, p.width]);
    const gradWeight = device.tensor(new Float32Array(p.vocab * p.width).fill(2), [p.vocab, p.width]);
    const forward = linearTokenLogProbs(hidden, weight, p.targets, { temperature: p.temperature });
    const gradLogProbs = device.tensor(p.g, [p.rows]);
    const gradEntropy = device.tensor(p.h, [p.rows]);
    const { gradHidden } = linearTokenLogProbsBackward(hidden, weight, p.targets, {
      ...forward,
      temperature: p.temperature,
      gradLogProbs,
      gradEntropy,
      gradWeight,
      gradHidden: null,
    });
    expect(gradHidden).toBe(null);
    const added = (await gradWeight.read()).map((x) => x - 2);
    expect(relativeError(added, trained.gradWeight!)).toBeLessThan(1e-5);
    for (const tensor of [hidden, weight, gradWeight, gradLogProbs, gradEntropy, ...Object.values(forward)]) {
      tensor.dispose();
    }
  });

  builtinTest('has the bits of tokenLogProbs on the product, and of the sampler', async () => {
    for (const dtype of ['f32', 'bf16'] as const) {
      const p = problem({ rows: 11, vocab: 5000, width: 64, dtype });
      const hidden = device.tensor(p.hidden, [p.rows, p.width], dtype);
      const weight = device.tensor(p.weight, [p.vocab, p.width], dtype);
      const logits = device.empty([p.rows, p.vocab]);
      device.run('matmul', { a: hidden, b: weight, out: logits, transposeA: 0, transposeB: 1, accumulate: 0 });
      const ids = device.empty([p.rows], 'i32');
      const sampled = device.empty([p.rows]);
      const keys = device.tensor(
        Int32Array.from({ length: p.rows * 4 }, (_, i) => i),
        [p.rows, 4],
        'i32',
      );
      const { temperature } = p;
      device.run('sample', { logits, keys, ids, logProbs: sampled, temperature, topK: 0, topP: 1, minP: 0 });
      const fused = linearTokenLogProbs(hidden, weight, ids, { temperature, workspaceBytes: 3 * p.vocab * 4 });
      const plain = tokenLogProbs(logits, ids, { temperature });
      expect(await fused.logProbs.read()).toEqual(await sampled.read());
      for (const key of ['logProbs', 'entropy', 'logSumExp'] as const) {
        expect(await fused[key].read()).toEqual(await plain[key].read());
      }
      const used = [hidden, weight, logits, ids, sampled, keys, ...Object.values(fused), ...Object.values(plain)];
      for (const tensor of used) tensor.dispose();
    }
  });

  builtinTest('the same bits from any number of threads', async () => {
    const p = problem({ rows: 13, vocab: 4500 });
    const expected = await run(device, p);
    const other = await open(1);
    expect(await run(other, p)).toEqual(expected);
    other.close();
  });
});
