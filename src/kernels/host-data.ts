import type { DType } from '../backend/backend.js';
import { InvalidArgumentError } from '../errors.js';
import { type Device, type Scope, Tensor } from '../tensor.js';

/** Numbers in the host's memory, where a tensor is also welcome. They are checked before anything is queued. */
export type HostNumbers = Float32Array | Int32Array | readonly number[];

export function isHostData(value: unknown): value is HostNumbers {
  return value instanceof Float32Array || value instanceof Int32Array || Array.isArray(value);
}

/** A one-dimensional tensor as it is, or host data as a tensor that `scope` disposes of. */
export function vector(
  scope: Scope,
  device: Device,
  name: string,
  value: Tensor | HostNumbers,
  dtype: Extract<DType, 'f32' | 'i32'>,
): Tensor {
  if (value instanceof Tensor) return value;
  if (!isHostData(value)) throw new InvalidArgumentError(name, 'a tensor or an array of numbers', value);
  if (dtype === 'i32') checkEach(name, value, 'a 32-bit integer', (x) => x === (x | 0));
  else if (Array.isArray(value)) checkEach(name, value, 'a number', (x) => typeof x === 'number');
  return scope.track(device.tensor(value, [value.length], dtype));
}

/** Token ids of host data lie in [0, vocabSize); those of a tensor are checked by the kernel. */
export function checkTargets(name: string, targets: Tensor | HostNumbers, vocabSize: number): void {
  if (!isHostData(targets)) return;
  const expected = `an integer from 0 to ${vocabSize - 1}`;
  checkEach(name, targets, expected, (id) => Number.isInteger(id) && id >= 0 && id < vocabSize);
}

/** Offsets of host data begin at 0, never fall and end at `total`; those of a tensor are checked by the kernel. */
export function checkOffsets(name: string, offsets: Tensor | HostNumbers, total: number): void {
  if (!isHostData(offsets)) return;
  if (offsets.length === 0) throw new InvalidArgumentError(name, 'at least one offset', offsets);
  checkEach(name, offsets, `an integer from 0 to ${total}, not below the one before`, (offset, i) => {
    const least = i === 0 ? 0 : offsets[i - 1]!;
    return Number.isInteger(offset) && offset >= least && offset <= total;
  });
  if (offsets[0] !== 0) throw new InvalidArgumentError(`${name}[0]`, '0', offsets[0]);
  const last = offsets.length - 1;
  if (offsets[last] !== total) throw new InvalidArgumentError(`${name}[${last}]`, String(total), offsets[last]);
}

/** Masks of host data are 0 or 1. */
export function checkMask(name: string, mask: Tensor | HostNumbers | null | undefined): void {
  if (isHostData(mask)) checkEach(name, mask, '0 or 1', (m) => m === 0 || m === 1);
}

/** Throws for the first element that fails `isGood`. */
export function checkEach(
  name: string,
  values: HostNumbers,
  expected: string,
  isGood: (value: number, index: number) => boolean,
): void {
  for (let i = 0; i < values.length; i++) {
    if (!isGood(values[i]!, i)) throw new InvalidArgumentError(`${name}[${i}]`, expected, values[i]);
  }
}
