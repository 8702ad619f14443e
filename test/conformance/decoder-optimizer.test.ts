import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { type AdamWOptions, adamw, globalNorm } from '../reference/adamw.js';
import { type Matrix, matrix } from '../reference/matrix.js';
import { expectClose, floatTypes, randomMatrix, relativeError, stored, Tensors } from './decoder-harness.js';

interface Fixture {
  maxNorm: number;
  start: number[];
  steps: { gradients: number[]; norm: number; parameters: number[]; firstMoment: number[]; secondMoment: number[] }[];
}

const fixture = JSON.parse(readFileSync(new URL('../fixtures/decoder/adamw.json', import.meta.url), 'utf8')) as Fixture;
const options: AdamWOptions = {
  learningRate: 3e-3,
  beta1: 0.9,
  beta2: 0.95,
  epsilon: 1e-8,
  weightDecay: 0.1,
  step: 1,
  maxNorm: fixture.maxNorm,
};

const asRow = (values: ArrayLike<number>): Matrix => ({
  rows: 1,
  columns: values.length,
  data: Float64Array.from(values),
});

/** Largest difference in units of the last place of a float32. */
function unitsInLastPlace(actual: Float32Array, truth: readonly number[]): number {
  return Math.max(...truth.map((x, i) => Math.abs(actual[i]! - x) / 2 ** (Math.floor(Math.log2(Math.abs(x))) - 23)));
}

test('the reference agrees with torch.optim.AdamW', () => {
  const parameters = Float64Array.from(fixture.start);
  const [first, second] = [parameters.map(() => 0), parameters.map(() => 0)];
  fixture.steps.forEach((truth, i) => {
    const gradients = Float64Array.from(truth.gradients);
    expect(globalNorm(gradients)).toBeCloseTo(truth.norm, 4);
    adamw(parameters, gradients, first, second, globalNorm(gradients), { ...options, step: i + 1 });
    expect(relativeError(parameters, asRow(truth.parameters))).toBeLessThan(2e-7);
    expect(relativeError(first, asRow(truth.firstMoment))).toBeLessThan(2e-7);
    expect(relativeError(second, asRow(truth.secondMoment))).toBeLessThan(4e-7);
  });
});

describe.each(await testDevices({ features: true }))('the optimiser on $name', ({ open }) => {
  let device: Device;
  let t: Tensors;

  beforeAll(async () => {
    device = await open();
  });
  afterEach(() => {
    t.dispose();
    expect(device.memory().liveTensors).toBe(0);
  });
  afterAll(() => device.close());

  test('equals torch.optim.AdamW to the rounding of float32', async () => {
    t = new Tensors(device);
    const count = fixture.start.length;
    const state = {
      parameters: t.row(fixture.start),
      firstMoment: t.vector(count, 0),
      secondMoment: t.vector(count, 0),
    };
    const norm = t.vector(1);
    for (const [i, truth] of fixture.steps.entries()) {
      const gradients = t.row(truth.gradients);
      device.run('globalNorm', { in: gradients, norm });
      device.run('adamw', { ...state, gradients, norm, ...options, step: i + 1 });
      expect(unitsInLastPlace(await t.read(norm), [truth.norm])).toBeLessThanOrEqual(1);
      expect(unitsInLastPlace(await t.read(state.firstMoment), truth.firstMoment)).toBeLessThanOrEqual(16);
      expect(unitsInLastPlace(await t.read(state.secondMoment), truth.secondMoment)).toBeLessThanOrEqual(8);
      expectClose(await t.read(state.parameters), asRow(truth.parameters), 1e-7);
    }
  });

  test.each(floatTypes)('writes %s model weights beside the parameters', async (dtype) => {
    for (const count of [0, 1, 33, 5000]) {
      t = new Tensors(device);
      const [parameters, gradients, first, second] = [1, 2, 3, 4].map((seed) => randomMatrix(1, count, seed)) as [
        Matrix,
        Matrix,
        Matrix,
        Matrix,
      ];
      for (let i = 0; i < count; i++) second.data[i] = Math.fround(second.data[i]! ** 2);
      const state = {
        parameters: t.row(parameters.data),
        firstMoment: t.row(first.data),
        secondMoment: t.row(second.data),
      };
      const modelWeights = t.row(new Float32Array(count), dtype);
      device.run('adamw', { ...state, gradients: t.row(gradients.data), modelWeights, ...options, step: 7 });
      const masters = await t.read(state.parameters);
      adamw(parameters.data, gradients.data, first.data, second.data, 0, { ...options, step: 7 });
      expectClose(masters, parameters, 3e-7);
      expect(Array.from(await t.read(modelWeights))).toEqual(Array.from(masters, (x) => stored(x, dtype)));
      t.dispose();
    }
  });

  test('changes nothing when the norm is not finite', async () => {
    for (const norm of [Number.NaN, Number.POSITIVE_INFINITY]) {
      t = new Tensors(device);
      const state = { parameters: t.row([1, 2]), firstMoment: t.row([3, 4]), secondMoment: t.row([5, 6]) };
      const modelWeights = t.row([7, 8]);
      device.run('adamw', { ...state, modelWeights, gradients: t.row([norm, 1]), norm: t.row([norm]), ...options });
      const after = await Promise.all([...Object.values(state), modelWeights].map((tensor) => t.read(tensor)));
      expect(after.map((x) => Array.from(x))).toEqual([
        [1, 2],
        [3, 4],
        [5, 6],
        [7, 8],
      ]);
      t.dispose();
    }
  });

  test('a norm below maxNorm, or maxNorm 0, leaves gradients as they are', async () => {
    t = new Tensors(device);
    const run = async (norm: number | null, maxNorm: number) => {
      const state = { parameters: t.row([1, 2]), firstMoment: t.vector(2, 0), secondMoment: t.vector(2, 0) };
      const args = { ...state, gradients: t.row([0.3, -0.4]), norm: norm === null ? null : t.row([norm]) };
      device.run('adamw', { ...args, ...options, maxNorm });
      return t.read(state.firstMoment);
    };
    const plain = await run(null, 0.1);
    expect(await run(0.5, 1)).toEqual(plain);
    expect(await run(0.5, 0)).toEqual(plain);
    expect(await run(0.5, 0.1)).not.toEqual(plain);
  });

  test('step 0 is refused', async () => {
    t = new Tensors(device);
    const state = { parameters: t.row([1]), firstMoment: t.row([0]), secondMoment: t.row([0]) };
    device.run('adamw', { ...state, gradients: t.row([1]), ...options, step: 0 });
    await expect(t.read(state.parameters)).rejects.toThrow(/step from 1 on but received 0/);
  });

  test('globalNorm sums in float64', async () => {
    t = new Tensors(device);
    for (const count of [0, 1, 7, 33, 100_001]) {
      const values = randomMatrix(1, count, count).data;
      const norm = t.vector(1);
      device.run('globalNorm', { in: t.row(values), norm });
      expect((await t.read(norm))[0]).toBe(Math.fround(globalNorm(values)));
    }
    // In float32 the small ones would vanish beside the large one.
    const values = matrix(1, 60_000, (_, c) => (c === 0 ? 1e4 : 1)).data;
    const norm = t.vector(1);
    device.run('globalNorm', { in: t.row(values), norm });
    expect((await t.read(norm))[0]).toBe(Math.fround(Math.sqrt(1e8 + 59_999)));
  });
});
