import {
  addBalls,
  type Ball,
  ball,
  distance,
  generalPower,
  invertBall,
  logarithm,
  magnitude,
  multiplyBalls,
  realFunction,
  wholePower,
} from './ball.js';
import { type Expression, some, symbolsOf } from './expression.js';
import type { Budget } from './limits.js';
import { divide, equal, minusOne, multiply, one, type Rational, toNumber, toSmallInteger } from './rational.js';

/** How to read what notation leaves open. */
interface Reading {
  readonly point: ReadonlyMap<string, number>;
  /** `\log` without a base. */
  readonly logBase: number;
  /** Whether roots and logarithms of negative numbers have (complex) values. */
  readonly complex: boolean;
  readonly budget: Budget;
}

/**
 * Compares by evaluation at fixed points, for what the exact form cannot decide. Values are balls, therefore 'different' is proved.
 * 'equal' is not, and is said only if
 *
 * - the expressions agree to at least 10 digits at every point where both are defined, which are at least four (identities are accepted
 *   although the domains may differ: `\ln x^2` and `2\ln x`);
 * - every literal has at most 8 digits. 1.41421356237 agrees with `\sqrt2` to 12 digits because it was written to do so.
 *
 * A `\log` without a base is read to base 10 and to base e, and the readings have to agree.
 */
export function compareNumerically(a: Expression, b: Expression, budget: Budget): 'equal' | 'different' | 'undecided' {
  const [base10, baseE] = [10, Math.E].map((logBase) => compareReading(a, b, logBase, budget));
  return base10 === baseE ? base10! : 'undecided';
}

function compareReading(a: Expression, b: Expression, logBase: number, budget: Budget) {
  const names = [...symbolsOf(b, symbolsOf(a))].sort();
  const complex =
    names.length === 0 || [a, b].some((x) => some(x, (node) => node.kind === 'constant' && node.name === 'i'));
  let agreed = 0;
  for (let index = 0; index < (names.length === 0 ? 1 : pointCount); index++) {
    const reading = { point: samplePoint(names, index), logBase, complex, budget };
    const [x, y] = [evaluate(a, reading), evaluate(b, reading)];
    if (!x || !y) continue;
    const error = x.error + y.error;
    if (distance(x, y) > error) return 'different';
    if (error > Math.max(1e-13, 1e-10 * Math.max(magnitude(x), magnitude(y)))) return 'undecided';
    agreed++;
  }
  const enough = agreed >= (names.length === 0 ? 1 : 4);
  return enough && ![a, b].some((x) => some(x, hasManyDigits)) ? 'equal' : 'undecided';
}

function hasManyDigits(node: Expression): boolean {
  return node.kind === 'number' && (node.digits ?? String(node.value.num).length) > 8;
}

const pointCount = 20;

/** Points of several sizes and signs; irrational-looking, so that no identity holds at them by chance. */
function samplePoint(names: readonly string[], index: number): Map<string, number> {
  const scale = [2, 0.9, 9, 40][index % 4]!;
  return new Map(
    names.map((name, k) => {
      const fraction = ((index * 31 + k * 17 + 5) * 0.6180339887498949) % 1;
      const sign = index >= 12 && (index + k) % 2 === 0 ? -1 : 1;
      return [name, sign * scale * (0.11 + 0.87 * fraction)];
    }),
  );
}

/** The value of an expression without variables; null where it has none. */
export function constantValue(expression: Expression, budget: Budget): Ball | null {
  return evaluate(expression, { point: new Map(), logBase: 10, complex: true, budget });
}

function evaluate(node: Expression, reading: Reading): Ball | null {
  reading.budget.spend(1);
  switch (node.kind) {
    case 'number':
      return numberBall(node.value);
    case 'symbol': {
      const value = reading.point.get(node.name);
      return value === undefined ? null : { re: value, im: 0, error: 0 };
    }
    case 'constant':
      return constants[node.name];
    case 'sum':
      return fold(node.terms, addBalls, reading);
    case 'product':
      return fold(node.factors, multiplyBalls, reading);
    case 'power':
      return evaluatePower(node.base, node.exponent, reading);
    case 'call': {
      const args = node.args.map((arg) => evaluate(arg, reading));
      return args.every((arg) => arg !== null) ? applyFunction(node.name, args, reading) : null;
    }
    case 'plus-minus':
      return null;
  }
}

function numberBall(value: Rational): Ball | null {
  const double = toNumber(value);
  return value.den === 1n && Number.isSafeInteger(double) ? { re: double, im: 0, error: 0 } : ball(double);
}

const constants = { pi: ball(Math.PI), e: ball(Math.E), i: { re: 0, im: 1, error: 0 }, infinity: null };

function fold(nodes: readonly Expression[], step: (a: Ball, b: Ball) => Ball | null, reading: Reading): Ball | null {
  let result = evaluate(nodes[0]!, reading);
  for (let k = 1; k < nodes.length && result; k++) {
    const next = evaluate(nodes[k]!, reading);
    result = next && step(result, next);
  }
  return result;
}

function evaluatePower(base: Expression, exponent: Expression, reading: Reading): Ball | null {
  const b = evaluate(base, reading);
  if (!b) return null;
  const fraction = literalFraction(exponent);
  if (fraction) {
    const whole = toSmallInteger(fraction);
    if (whole !== null) return whole === -1 ? invertBall(b) : wholePower(b, whole);
    // Odd roots of negative real numbers are real.
    if (fraction.den % 2n === 1n && b.im === 0 && b.re < -b.error) {
      const size = generalPower({ ...b, re: -b.re }, ball(toNumber(fraction))!, false);
      return size && fraction.num % 2n !== 0n ? { ...size, re: -size.re } : size;
    }
  }
  const x = fraction ? ball(toNumber(fraction)) : evaluate(exponent, reading);
  if (!x) return null;
  // Whether a computed exponent is a whole number or an odd root is not known, so a negative base has no safe value.
  if (!fraction && b.im === 0 && b.re < 0) return null;
  return generalPower(b, x, reading.complex);
}

/** The exponent as written by a number, a root or a simple fraction. */
function literalFraction(node: Expression): Rational | null {
  if (node.kind === 'number') return node.value;
  if (node.kind === 'product') {
    return node.factors.map(literalFraction).reduce((a, b) => a && b && multiply(a, b));
  }
  if (node.kind !== 'power' || node.base.kind !== 'number' || node.exponent.kind !== 'number') return null;
  return equal(node.exponent.value, minusOne) && node.base.value.num !== 0n ? divide(one, node.base.value) : null;
}

function applyFunction(name: string, args: Ball[], reading: Reading): Ball | null {
  const [x, y] = args as [Ball, Ball | undefined];
  const steady = () => 1;
  switch (name) {
    case 'ln':
      return logarithm(x, reading.complex);
    case 'log':
      return ratio(logarithm(x, reading.complex), logarithm(y ?? ball(reading.logBase)!, reading.complex));
    case 'sin':
    case 'cos':
      return Math.abs(x.re) < 1e6 ? realFunction(x, Math[name], steady) : null;
    case 'tan':
      return ratio(applyFunction('sin', args, reading), applyFunction('cos', args, reading));
    case 'cot':
      return ratio(applyFunction('cos', args, reading), applyFunction('sin', args, reading));
    case 'sec':
      return ratio(ball(1), applyFunction('cos', args, reading));
    case 'csc':
      return ratio(ball(1), applyFunction('sin', args, reading));
    case 'arctan':
      return realFunction(x, Math.atan, steady);
    case 'arcsin':
    case 'arccos':
      return inverseSine(x, name);
    case 'sinh':
    case 'cosh':
      return realFunction(x, Math[name], (at, error) => Math.cosh(Math.abs(at) + error));
    case 'tanh':
      return realFunction(x, Math.tanh, steady);
    case 'abs':
      return ball(magnitude(x), 0, x.error);
    case 'floor':
      return step(x, Math.floor);
    case 'ceil':
      return step(x, Math.ceil);
    default:
      return null;
  }
}

function ratio(a: Ball | null, b: Ball | null): Ball | null {
  const inverse = b && invertBall(b);
  return a && inverse && multiplyBalls(a, inverse);
}

/** At the ends of [-1, 1] the slope is infinite; there the function changes by no more than 2 \sqrt{error}. */
function inverseSine(x: Ball, name: 'arcsin' | 'arccos'): Ball | null {
  const f = name === 'arcsin' ? Math.asin : Math.acos;
  if (x.im !== 0 || Math.abs(x.re) > 1 + x.error) return null;
  const inner = 1 - (Math.abs(x.re) + x.error) ** 2;
  const change = inner > 1e-3 ? x.error / Math.sqrt(inner) : 2 * Math.sqrt(x.error);
  return ball(f(Math.max(-1, Math.min(1, x.re))), 0, change);
}

function step(x: Ball, f: (value: number) => number): Ball | null {
  return x.im === 0 && f(x.re - x.error) === f(x.re + x.error) ? ball(f(x.re)) : null;
}
