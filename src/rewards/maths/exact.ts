import { type ConstantName, type Expression, some } from './expression.js';
import { type Budget, LimitError, limits, UnreadableError } from './limits.js';
import {
  addPolynomials,
  asRational,
  constantPolynomial,
  fromTerms,
  generatorPolynomial,
  generatorsOf,
  multiplyPolynomials,
  type Polynomial,
  type Powers,
  polynomialKey,
  raisePolynomial,
  raiseTerm,
  scalePolynomial,
  singleTerm,
  subtractPolynomials,
  type Term,
} from './polynomial.js';
import * as rationals from './rational.js';
import { minusOne, one, type Rational, rational } from './rational.js';

/** A rational function. Not in lowest terms: equality is decided by cross-multiplication. */
interface Quotient {
  readonly num: Polynomial;
  readonly den: Polynomial;
}

const unit = constantPolynomial(one);

/**
 * Multiplies an expression out.
 * @throws UnreadableError when it has no value, LimitError when it grows too large
 */
export function toQuotient(expression: Expression, budget: Budget): Quotient {
  budget.spend(4);
  switch (expression.kind) {
    case 'number':
      return whole(constantPolynomial(expression.value));
    case 'symbol':
      return whole(generatorPolynomial(`v:${expression.name}`));
    case 'constant':
      return whole(generatorPolynomial(constantGenerator(expression.name)));
    case 'sum':
      return expression.terms.map((term) => toQuotient(term, budget)).reduce((a, b) => addQuotients(a, b, budget));
    case 'product':
      return expression.factors
        .map((factor) => toQuotient(factor, budget))
        .reduce((a, b) => multiplyQuotients(a, b, budget));
    case 'power':
      return raise(expression.base, expression.exponent, budget);
    case 'call':
      return applyFunction(
        expression.name,
        expression.args.map((arg) => toQuotient(arg, budget)),
      );
    case 'plus-minus':
      throw new UnreadableError('a sign is not chosen');
  }
}

/**
 * Compares two expressions exactly: 'undecided' when an atom (see `Polynomial`) keeps a difference from being proof, or infinity is
 * calculated with.
 */
export function compareExactly(a: Expression, b: Expression, budget: Budget): 'equal' | 'different' | 'undecided' {
  if (![a, b].every(isFiniteOrInfinity)) return 'undecided';
  const p = toQuotient(a, budget);
  const q = toQuotient(b, budget);
  const cross = subtractPolynomials(
    multiplyPolynomials(p.num, q.den, budget),
    multiplyPolynomials(q.num, p.den, budget),
    budget,
  );
  if (cross.size === 0) return 'equal';
  return [...generatorsOf(cross)].some((generator) => generator.startsWith('a:')) ? 'undecided' : 'different';
}

/** The exact value of an expression that is a rational number; null for every other. */
export function rationalValue(expression: Expression, budget: Budget): Rational | null {
  const { num, den } = toQuotient(expression, budget);
  const [n, d] = [asRational(num), asRational(den)];
  return n && d ? rationals.divide(n, d) : null;
}

/** A writing of the quotient that is the same for equal polynomials; equal fractions may differ in it. */
function quotientKey({ num, den }: Quotient): string {
  const scale = rationals.divide(one, den.values().next().value!.coefficient);
  return `(${polynomialKey(scalePolynomial(num, scale))})/(${polynomialKey(scalePolynomial(den, scale))})`;
}

function whole(num: Polynomial): Quotient {
  return { num, den: unit };
}

function atom(name: string, ...args: Quotient[]): Quotient {
  return whole(generatorPolynomial(`a:${name}[${args.map(quotientKey).join(';')}]`));
}

function constantGenerator(name: ConstantName): string {
  return name === 'i' ? 'i' : `c:${name}`;
}

function addQuotients(a: Quotient, b: Quotient, budget: Budget): Quotient {
  if (polynomialKey(a.den) === polynomialKey(b.den)) return { num: addPolynomials(a.num, b.num, budget), den: a.den };
  const left = multiplyPolynomials(a.num, b.den, budget);
  const right = multiplyPolynomials(b.num, a.den, budget);
  return { num: addPolynomials(left, right, budget), den: multiplyPolynomials(a.den, b.den, budget) };
}

function multiplyQuotients(a: Quotient, b: Quotient, budget: Budget): Quotient {
  return { num: multiplyPolynomials(a.num, b.num, budget), den: multiplyPolynomials(a.den, b.den, budget) };
}

/** One over the quotient. A single term is inverted in place, which keeps monomials free of denominators. */
function invert({ num, den }: Quotient): Quotient {
  if (num.size === 0) throw new UnreadableError('division by zero');
  const term = singleTerm(num);
  return term && asRational(den)
    ? whole(scalePolynomial(fromTerms([raiseTerm(term, minusOne)]), asRational(den)!))
    : { num: den, den: num };
}

function raise(base: Expression, exponent: Expression, budget: Budget): Quotient {
  const b = toQuotient(base, budget);
  const x = toQuotient(exponent, budget);
  const power = asRational(x.den)
    ? asRational(scalePolynomial(x.num, rationals.divide(one, asRational(x.den)!)))
    : null;
  if (!power) return atom('power', b, x);
  if (power.num === 0n && b.num.size === 0) throw new UnreadableError('0^0');
  const times = rationals.toSmallInteger(power);
  if (times !== null) {
    const positive = times < 0 ? invert(b) : b;
    const size = Math.abs(times);
    return { num: raisePolynomial(positive.num, size, budget), den: raisePolynomial(positive.den, size, budget) };
  }
  if (rationals.isInteger(power)) throw new LimitError('exponent is too large');
  if (b.num.size === 0) {
    if (power.num < 0n) throw new UnreadableError('division by zero');
    return b;
  }
  return takeRoot(b, power, budget) ?? atom('power', b, x);
}

/**
 * A fractional power by the school conventions: roots of positive numbers are positive, odd roots of negative numbers are negative, and
 * `\sqrt{-4}` is 2i. Null when the root cannot be split into generators without knowing the sign of a variable.
 */
function takeRoot(base: Quotient, power: Rational, budget: Budget): Quotient | null {
  const term = singleTerm(base.num);
  const divisor = asRational(base.den);
  const content = term && divisor ? rationals.divide(term.coefficient, divisor) : contentOf(base.num);
  const evenRoot = power.den % 2n === 0n;
  const rootOfContent = rootOfNumber(content, power, budget);
  if (!rootOfContent) return null;
  if (term && divisor) {
    const constantTerm = term.powers.every(([generator]) => isPositive(generator));
    if (!canRaise(term.powers, evenRoot) || (evenRoot && content.num < 0n && !constantTerm)) return null;
    const rest = raiseTerm({ coefficient: one, powers: term.powers }, power);
    return whole(multiplyPolynomials(rootOfContent, fromTerms([rest]), budget));
  }
  // A sum: its rational content leaves the root, the rest becomes an atom, so that \sqrt{4x+4} meets 2\sqrt{x+1}.
  const primitive = { num: scalePolynomial(base.num, rationals.divide(one, content)), den: base.den };
  const rest = atom('power', primitive, whole(constantPolynomial(power)));
  return multiplyQuotients(whole(rootOfContent), rest, budget);
}

/** Roots distribute over positive constants always, over a variable only where that cannot lose the sign of a square. */
function canRaise(powers: Powers, evenRoot: boolean): boolean {
  const unsigned = powers.filter(([generator]) => !isPositive(generator));
  if (unsigned.some(([generator]) => !generator.startsWith('v:'))) return false;
  if (!evenRoot) return true;
  return unsigned.length === 0 || (unsigned.length === 1 && unsigned[0]![1].num % 2n !== 0n);
}

function isPositive(generator: string): boolean {
  return generator.startsWith('r:') || generator === 'c:pi' || generator === 'c:e';
}

/** `value ** power` as a coefficient times roots of primes; null when the value cannot be factored within bounds. */
function rootOfNumber(value: Rational, power: Rational, budget: Budget): Polynomial | null {
  const factors: [string, Rational][] = [];
  let sign: Term = { coefficient: one, powers: [] };
  if (value.num < 0n) {
    if (power.den % 2n === 1n) sign = { coefficient: power.num % 2n === 0n ? one : minusOne, powers: [] };
    else if (power.den === 2n) sign = { coefficient: one, powers: [['i', rational(power.num)]] };
    else return null;
  }
  for (const [part, direction] of [[value.num < 0n ? -value.num : value.num, 1n] as const, [value.den, -1n] as const]) {
    const primes = factor(part, budget);
    if (!primes) return null;
    for (const [prime, exponent] of primes) {
      factors.push([`r:${prime}`, rational(BigInt(exponent) * direction)]);
    }
  }
  const positive = raiseTerm({ coefficient: one, powers: factors }, power);
  const signed = raiseTerm(sign, one);
  return multiplyPolynomials(fromTerms([positive]), fromTerms([signed]), budget);
}

/** Trial division; null when the cofactor that is left could be composite. */
function factor(value: bigint, budget: Budget): [prime: bigint, exponent: number][] | null {
  const bound = 10_000n;
  if (value > 1n << 256n) throw new LimitError('number is too large to take its root');
  const primes: [bigint, number][] = [];
  let rest = value;
  for (let prime = 2n; prime <= bound && prime * prime <= rest; prime += prime === 2n ? 1n : 2n) {
    budget.spend(0.05);
    let exponent = 0;
    for (; rest % prime === 0n; rest /= prime) exponent++;
    if (exponent > 0) primes.push([prime, exponent]);
  }
  if (rest > 1n && rest <= bound * bound) primes.push([rest, 1]);
  else if (rest > 1n) {
    const side = BigInt(Math.round(Math.sqrt(Number(rest))));
    if (side * side !== rest || side > bound * bound) return null;
    primes.push([side, 2]);
  }
  return primes;
}

/** A positive rational such that the polynomial divided by it depends only on the ratios of its coefficients. */
function contentOf(a: Polynomial): Rational {
  const keys = [...a.keys()].sort();
  const lead = a.get(keys[0]!)!.coefficient;
  return lead.num < 0n ? rationals.negate(lead) : lead;
}

/** Functions with exact values at rational arguments; everything else is an atom. */
function applyFunction(name: string, args: Quotient[]): Quotient {
  const values = args.map(({ num, den }) => {
    const [n, d] = [asRational(num), asRational(den)];
    return n && d ? rationals.divide(n, d) : null;
  });
  const [x, y] = values;
  if (x && name === 'abs') return whole(constantPolynomial(x.num < 0n ? rationals.negate(x) : x));
  if (x && name === 'floor') return whole(constantPolynomial(rational(rationals.floor(x))));
  if (x && name === 'ceil') return whole(constantPolynomial(rational(-rationals.floor(rationals.negate(x)))));
  if (x && name === 'factorial') return whole(constantPolynomial(rational(fallingProduct(x, x))));
  if (x && y && name === 'binomial') {
    return whole(constantPolynomial(rational(fallingProduct(x, y), fallingProduct(y, y))));
  }
  return atom(name, ...args);
}

/** n (n-1) … over `count` factors, for whole 0 <= count <= n. */
function fallingProduct(n: Rational, count: Rational): bigint {
  const [top, factors] = [rationals.toSmallInteger(n), rationals.toSmallInteger(count)];
  if (top === null || factors === null || factors < 0 || top < factors)
    throw new UnreadableError('factorial out of range');
  if (factors > 1000 || factors * Math.log2(top + 1) > limits.bits) throw new LimitError('factorial is too large');
  let result = 1n;
  for (let k = 0; k < factors; k++) result *= BigInt(top - k);
  return result;
}

/** True for expressions without infinity and for plus or minus infinity itself; infinity obeys no algebra. */
function isFiniteOrInfinity(expression: Expression): boolean {
  const isInfinity = (node: Expression) => node.kind === 'constant' && node.name === 'infinity';
  if (!some(expression, isInfinity) || isInfinity(expression)) return true;
  return (
    expression.kind === 'product' &&
    expression.factors.every((factor) => isInfinity(factor) || isMinusOne(factor)) &&
    expression.factors.length === 2
  );
}

function isMinusOne(expression: Expression): boolean {
  return expression.kind === 'number' && rationals.equal(expression.value, minusOne);
}
