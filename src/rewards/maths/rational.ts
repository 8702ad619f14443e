import { LimitError, limits, UnreadableError } from './limits.js';

/** An exact fraction in lowest terms; the denominator is positive. */
export interface Rational {
  readonly num: bigint;
  readonly den: bigint;
}

export const zero: Rational = { num: 0n, den: 1n };
export const one: Rational = { num: 1n, den: 1n };
export const minusOne: Rational = { num: -1n, den: 1n };

export function rational(num: bigint | number, den: bigint | number = 1n): Rational {
  return reduce(BigInt(num), BigInt(den));
}

/**
 * The number that a decimal spells: `integer` and `fraction` digits, `repeating` digits under a bar, times ten to the `exponent`.
 */
export function fromDecimal(integer: string, fraction = '', repeating = '', exponent = 0): Rational {
  if (Math.abs(exponent) > limits.bits / 4) throw new LimitError('exponent is too large');
  const fixed = rational(BigInt(`${integer}${fraction}` || '0'), 10n ** BigInt(fraction.length));
  const tail = repeating
    ? rational(BigInt(repeating), (10n ** BigInt(repeating.length) - 1n) * 10n ** BigInt(fraction.length))
    : zero;
  return multiply(add(fixed, tail), power(rational(10), exponent));
}

export function add(a: Rational, b: Rational): Rational {
  if (a.den === 1n && b.den === 1n) return { num: a.num + b.num, den: 1n };
  return reduce(a.num * b.den + b.num * a.den, a.den * b.den);
}

export function negate(a: Rational): Rational {
  return { num: -a.num, den: a.den };
}

export function subtract(a: Rational, b: Rational): Rational {
  return add(a, negate(b));
}

export function multiply(a: Rational, b: Rational): Rational {
  if (a.den === 1n && b.den === 1n) return { num: a.num * b.num, den: 1n };
  return reduce(a.num * b.num, a.den * b.den);
}

export function divide(a: Rational, b: Rational): Rational {
  return reduce(a.num * b.den, a.den * b.num);
}

/** `a` to an integer power. The size of the result is estimated first, so that `9^(9^9)` is refused and never computed. */
export function power(a: Rational, exponent: number): Rational {
  const size = Math.abs(exponent);
  if ((bitLength(a) - 1) * size > limits.bits) throw new LimitError('power is too large');
  const base = exponent < 0 ? divide(one, a) : a;
  return { num: base.num ** BigInt(size), den: base.den ** BigInt(size) };
}

export function compare(a: Rational, b: Rational): number {
  const difference = a.num * b.den - b.num * a.den;
  return difference === 0n ? 0 : difference < 0n ? -1 : 1;
}

export function equal(a: Rational, b: Rational): boolean {
  return a.num === b.num && a.den === b.den;
}

export function isInteger(a: Rational): boolean {
  return a.den === 1n;
}

/** The value as a JavaScript integer, or null when it is not an integer or too large to be an exponent or an index. */
export function toSmallInteger(a: Rational): number | null {
  return a.den === 1n && a.num <= 1_000_000n && a.num >= -1_000_000n ? Number(a.num) : null;
}

export function floor(a: Rational): bigint {
  const quotient = a.num / a.den;
  return a.num < 0n && quotient * a.den !== a.num ? quotient - 1n : quotient;
}

/** Bits of the larger of numerator and denominator. */
export function bitLength(a: Rational): number {
  return Math.max(integerBits(a.num), integerBits(a.den));
}

/** The nearest double within a few units in the last place; infinite when out of range. */
export function toNumber(a: Rational): number {
  // Both parts are cut to 1000 bits, so that their quotient does not become Infinity / Infinity.
  const shiftNum = Math.max(0, integerBits(a.num) - 1000);
  const shiftDen = Math.max(0, integerBits(a.den) - 1000);
  const quotient = Number(a.num >> BigInt(shiftNum)) / Number(a.den >> BigInt(shiftDen));
  return quotient * 2 ** (shiftNum - shiftDen);
}

/** True when the fraction has a finite decimal expansion: no prime but 2 and 5 divides the denominator. */
export function isTerminating(a: Rational): boolean {
  let den = a.den;
  for (const prime of [2n, 5n]) while (den % prime === 0n) den /= prime;
  return den === 1n;
}

export function format(a: Rational): string {
  return a.den === 1n ? `${a.num}` : `${a.num}/${a.den}`;
}

function reduce(num: bigint, den: bigint): Rational {
  if (den === 0n) throw new UnreadableError('division by zero');
  if (den === 1n) return { num, den };
  let a = num < 0n ? -num : num;
  let b = den < 0n ? -den : den;
  while (b !== 0n) [a, b] = [b, a % b];
  if (den < 0n) a = -a;
  return { num: num / a, den: den / a };
}

function integerBits(value: bigint): number {
  if (value < 1n << 32n && value > -(1n << 32n)) {
    return value === 0n ? 0 : Math.floor(Math.log2(Math.abs(Number(value)))) + 1;
  }
  return (value < 0n ? -value : value).toString(16).length * 4;
}
