import { InvalidArgumentError } from '../errors.js';
import { Tensor } from '../tensor.js';

/** Checks of options. Each returns the value, so that it can stand where the value is used. */

export function requireTensor(name: string, value: unknown, rank: number): Tensor {
  if (!(value instanceof Tensor)) throw new InvalidArgumentError(name, 'a tensor', value);
  if (value.shape.length !== rank) throw new InvalidArgumentError(name, `a tensor of rank ${rank}`, value.shape);
  return value;
}

export function requirePositive(name: string, value: number): number {
  if (!(typeof value === 'number' && value > 0 && Number.isFinite(value))) {
    throw new InvalidArgumentError(name, 'a number above 0', value);
  }
  return value;
}

export function requireNonNegative(name: string, value: number): number {
  if (!(typeof value === 'number' && value >= 0 && Number.isFinite(value))) {
    throw new InvalidArgumentError(name, 'a number of 0 or more', value);
  }
  return value;
}

export function requireShare(name: string, value: number): number {
  if (!(typeof value === 'number' && value > 0 && value <= 1)) {
    throw new InvalidArgumentError(name, 'a share above 0 and at most 1', value);
  }
  return value;
}

export function requireFinite(name: string, value: number): number {
  if (!(typeof value === 'number' && Number.isFinite(value))) {
    throw new InvalidArgumentError(name, 'a finite number', value);
  }
  return value;
}

/** The position of a choice in the list of choices, which is its number in the C API. */
export function requireChoice<T extends string>(name: string, choices: readonly T[], value: T): number {
  const index = choices.indexOf(value);
  if (index < 0) throw new InvalidArgumentError(name, choices.map((choice) => `'${choice}'`).join(' or '), value);
  return index;
}

/** Throws for an option that the function does not know, so that a misspelt one is not ignored. */
export function refuseUnknown(name: string, options: object, known: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (!known.includes(key)) throw new InvalidArgumentError(name, `options among ${known.join(', ')}`, key);
  }
}
