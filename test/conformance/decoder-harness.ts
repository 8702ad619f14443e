import { expect } from 'vitest';
import type { DType } from '../../src/backend/backend.js';
import { bf16ToFloat, f16ToFloat, floatToBf16, floatToF16 } from '../../src/dtype.js';
import type { Device, Tensor } from '../../src/tensor.js';
import { type Matrix, matrix } from '../reference/matrix.js';

export type FloatType = Exclude<DType, 'i32'>;
export const floatTypes: readonly FloatType[] = ['f32', 'bf16', 'f16'];

/** Largest relative error of a row of results that are stored in this dtype. */
export const tolerance: Record<FloatType, number> = { f32: 2e-6, bf16: 2 ** -8, f16: 2 ** -11 };

/** The number as the dtype stores it. */
export function stored(value: number, dtype: FloatType): number {
  if (dtype === 'f32') return Math.fround(value);
  return dtype === 'bf16' ? bf16ToFloat(floatToBf16(value)) : f16ToFloat(floatToF16(value));
}

/** Repeatable numbers with mean 0 and variance 1. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export function randomMatrix(rows: number, columns: number, seed: number, dtype: FloatType = 'f32'): Matrix {
  const next = randomNumbers(seed);
  return matrix(rows, columns, () => stored(next(), dtype));
}

/** Tensors of one device; `dispose` frees all. With `gap` the rows of matrices lie that many elements apart. */
export class Tensors {
  readonly #all: Tensor[] = [];

  constructor(
    readonly device: Device,
    readonly gap = 0,
  ) {}

  put(m: Matrix, dtype: FloatType = 'f32'): Tensor {
    const packed = this.#own(this.device.tensor(m.data, [m.rows, m.columns], dtype));
    if (this.gap === 0) return packed;
    const spread = this.empty(m.rows, m.columns, dtype);
    this.device.run('copy', { in: packed, out: spread });
    return spread;
  }

  /** A vector. */
  row(values: ArrayLike<number>, dtype: DType = 'f32'): Tensor {
    return this.#own(this.device.tensor(Array.from(values), [values.length], dtype));
  }

  ints(rows: readonly (readonly number[])[], columns: number): Tensor {
    return this.#own(this.device.tensor(Int32Array.from(rows.flat()), [rows.length, columns], 'i32'));
  }

  empty(rows: number, columns: number, dtype: FloatType = 'f32'): Tensor {
    const stride = columns + this.gap;
    const whole = this.#own(this.device.empty([rows, stride], dtype));
    this.device.run('fill', { out: whole, value: 77 }); // what an operation forgets to write is wrong
    return this.gap === 0 ? whole : this.#own(whole.view([rows, columns], 0, stride));
  }

  vector(length: number, value = 77): Tensor {
    const t = this.#own(this.device.empty([length]));
    this.device.run('fill', { out: t, value });
    return t;
  }

  async read(t: Tensor): Promise<Float32Array> {
    const packed = this.device.empty(t.shape, t.dtype);
    try {
      this.device.run('copy', { in: t, out: packed });
      return (await packed.read()) as Float32Array;
    } finally {
      packed.dispose();
    }
  }

  dispose(): void {
    for (const t of this.#all) t.dispose();
    this.#all.length = 0;
  }

  #own(t: Tensor): Tensor {
    this.#all.push(t);
    return t;
  }
}

/**
 * max over rows of |actual - truth| / |truth|. A row is measured against the root mean square of the rows where that is
 * larger and `cancels` is set (rows whose terms cancel), and against 1 where every truth is 0.
 */
export function relativeError(actual: ArrayLike<number>, truth: Matrix, cancels = false): number {
  const { rows, columns, data } = truth;
  const mean = Math.hypot(...data) / Math.sqrt(rows);
  let worst = 0;
  for (let r = 0; r < rows; r++) {
    const row = data.subarray(r * columns, (r + 1) * columns);
    const difference = Math.hypot(...row.map((x, c) => x - actual[r * columns + c]!));
    if (difference === 0) continue;
    const size = Math.hypot(...row);
    const error = difference / ((cancels ? Math.max(size, mean) : size) || mean || 1);
    worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(worst, error);
  }
  return worst;
}

/** Expects results within a tolerance that one row off by 2 % breaks. */
export function expectClose(actual: ArrayLike<number>, truth: Matrix, limit: number, cancels = false): void {
  expect(actual.length).toBe(truth.data.length);
  expect(relativeError(actual, truth, cancels)).toBeLessThanOrEqual(limit);
  const row = strongestRow(truth);
  if (row < 0) return;
  const off = Float64Array.from(actual as ArrayLike<number>, (x, i) =>
    Math.floor(i / truth.columns) === row ? x * 1.02 : x,
  );
  expect(relativeError(off, truth, cancels)).toBeGreaterThan(limit);
}

function strongestRow({ rows, columns, data }: Matrix): number {
  const norms = Array.from({ length: rows }, (_, r) => Math.hypot(...data.subarray(r * columns, (r + 1) * columns)));
  return norms.findIndex((norm) => norm > 0 && norm === Math.max(...norms));
}

/** Central differences of f with respect to every element of x. */
export function differences(x: Matrix, f: () => number, step = 1e-5): Matrix {
  return matrix(x.rows, x.columns, (r, c) => {
    const i = r * x.columns + c;
    const kept = x.data[i]!;
    x.data[i] = kept + step;
    const above = f();
    x.data[i] = kept - step;
    const below = f();
    x.data[i] = kept;
    return (above - below) / (2 * step);
  });
}

/** The inner product of two matrices: a scalar loss whose upstream gradient is `weights`. */
export function inner(m: Matrix, weights: Matrix): number {
  return m.data.reduce((sum, x, i) => sum + x * weights.data[i]!, 0);
}
