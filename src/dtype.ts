import type { DType } from './backend/backend.js';
import { InvalidArgumentError } from './errors.js';

/** Numbers for a tensor; bf16 and f16 may also come as their bits. */
export type TensorData = Float32Array | Float64Array | Int32Array | Uint16Array | readonly number[];

/** The bytes that a tensor of this dtype stores for `data`. */
export function encode(data: TensorData, dtype: DType): ArrayBufferView {
  if (dtype === 'i32') return data instanceof Int32Array ? data : toInt32(data);
  if (dtype === 'f32') return data instanceof Float32Array ? data : Float32Array.from(data);
  if (data instanceof Uint16Array) return data;
  const toBits = dtype === 'bf16' ? floatToBf16 : floatToF16;
  return Uint16Array.from(data as ArrayLike<number>, toBits);
}

function toInt32(data: TensorData): Int32Array {
  const bad = Array.prototype.findIndex.call(data, (value: number) => value !== (value | 0));
  if (bad >= 0) throw new InvalidArgumentError(`data[${bad}]`, 'a 32-bit integer', data[bad]);
  return Int32Array.from(data);
}

/** What `Tensor.read` gives for stored bytes. */
export function decode(buffer: ArrayBuffer, dtype: DType): Float32Array | Int32Array {
  if (dtype === 'i32') return new Int32Array(buffer);
  if (dtype === 'f32') return new Float32Array(buffer);
  return Float32Array.from(new Uint16Array(buffer), dtype === 'bf16' ? bf16ToFloat : f16ToFloat);
}

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** The bits of the bf16 nearest to `value` (ties to even; NaN stays NaN). */
export function floatToBf16(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0]!;
  if (Number.isNaN(value)) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

export function bf16ToFloat(bits: number): number {
  scratchBits[0] = bits << 16;
  return scratchFloat[0]!;
}

/** The bits of the f16 nearest to `value` (ties to even; overflow to infinity, subnormals kept). */
export function floatToF16(value: number): number {
  const x = Math.fround(value);
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(x);
  if (Number.isNaN(x)) return 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | roundToEven(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  const scaled = roundToEven((magnitude / 2 ** exponent) * 1024);
  return sign | (((exponent + 15) << 10) + (scaled - 1024));
}

export function f16ToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function roundToEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}
