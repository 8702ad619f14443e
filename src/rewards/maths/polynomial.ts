import { type Budget, LimitError, limits } from './limits.js';
import * as rationals from './rational.js';
import { one, type Rational, rational } from './rational.js';

/**
 * Polynomials with rational coefficients and rational exponents over named generators. The first letter of a name says what it is:
 *
 * - `v:x` a variable, `c:pi` and `c:e` the constants;
 * - `r:5` the prime 5 under a root: exponents lie in [0, 1), whole powers move into the coefficient. Products of such roots with different
 *   exponents are linearly independent over the rationals (Besicovitch 1940), so a sum of roots is zero only if it has no terms;
 * - `i` the imaginary unit: the exponent is 0 or 1;
 * - `a:…` an atom: a subexpression about which nothing is known here, such as `sin(x)`. Only with atoms can a polynomial that has terms be zero.
 */
export type Polynomial = ReadonlyMap<string, Term>;

export interface Term {
  readonly coefficient: Rational;
  /** Sorted by generator, no exponent zero. */
  readonly powers: Powers;
}

export type Powers = readonly (readonly [generator: string, exponent: Rational])[];

export const emptyPolynomial: Polynomial = new Map();

export function constantPolynomial(value: Rational): Polynomial {
  return fromTerms([{ coefficient: value, powers: [] }]);
}

export function generatorPolynomial(generator: string): Polynomial {
  return fromTerms([{ coefficient: one, powers: [[generator, one]] }]);
}

export function fromTerms(terms: Iterable<Term>): Polynomial {
  const result = new Map<string, Term>();
  for (const term of terms) accumulate(result, term);
  return result;
}

export function addPolynomials(a: Polynomial, b: Polynomial, budget: Budget): Polynomial {
  const result = new Map(a);
  for (const term of b.values()) {
    budget.spend(cost(term.coefficient));
    accumulate(result, term);
  }
  return result;
}

export function scalePolynomial(a: Polynomial, factor: Rational): Polynomial {
  return fromTerms(
    [...a.values()].map((term) => ({ ...term, coefficient: rationals.multiply(term.coefficient, factor) })),
  );
}

export function subtractPolynomials(a: Polynomial, b: Polynomial, budget: Budget): Polynomial {
  return addPolynomials(a, scalePolynomial(b, rational(-1)), budget);
}

export function multiplyPolynomials(a: Polynomial, b: Polynomial, budget: Budget): Polynomial {
  const result = new Map<string, Term>();
  for (const s of a.values()) for (const t of b.values()) accumulate(result, multiplyTerms(s, t, budget));
  return result;
}

/** A whole, not negative power. One term takes any exponent, a sum only as far as it can be multiplied out. */
export function raisePolynomial(a: Polynomial, exponent: number, budget: Budget): Polynomial {
  const only = singleTerm(a);
  if (only) return fromTerms([raiseTerm(only, rational(exponent))]);
  if (exponent > limits.expandedExponent && a.size > 0) throw new LimitError('exponent is too large to multiply out');
  let result = constantPolynomial(one);
  for (let k = 0; k < exponent; k++) result = multiplyPolynomials(result, a, budget);
  return result;
}

/** A term to a whole power, or, when the coefficient is 1, to any power under which its generators may be raised. */
export function raiseTerm(term: Term, exponent: Rational): Term {
  const whole = rationals.toSmallInteger(exponent);
  if (whole === null && !rationals.equal(term.coefficient, one)) throw new LimitError('exponent is too large');
  return tidy(
    whole === null ? one : rationals.power(term.coefficient, whole),
    term.powers.map(([generator, power]) => [generator, rationals.multiply(power, exponent)] as const),
  );
}

function multiplyTerms(s: Term, t: Term, budget: Budget): Term {
  budget.spend(cost(s.coefficient) + cost(t.coefficient) + s.powers.length + t.powers.length);
  const merged = new Map(s.powers);
  for (const [generator, exponent] of t.powers) {
    const present = merged.get(generator);
    merged.set(generator, present ? rationals.add(present, exponent) : exponent);
  }
  return tidy(rationals.multiply(s.coefficient, t.coefficient), [...merged]);
}

export function singleTerm(a: Polynomial): Term | undefined {
  return a.size === 1 ? a.values().next().value : undefined;
}

/** The value of a polynomial without generators; null for any other. */
export function asRational(a: Polynomial): Rational | null {
  if (a.size === 0) return rationals.zero;
  const only = singleTerm(a);
  return only && only.powers.length === 0 ? only.coefficient : null;
}

export function generatorsOf(a: Polynomial): Set<string> {
  const found = new Set<string>();
  for (const term of a.values()) for (const [generator] of term.powers) found.add(generator);
  return found;
}

/** A writing that is the same for equal polynomials. */
export function polynomialKey(a: Polynomial): string {
  return [...a]
    .sort(([x], [y]) => (x < y ? -1 : 1))
    .map(([key, term]) => `${rationals.format(term.coefficient)}*${key}`)
    .join('+');
}

export function powersKey(powers: Powers): string {
  return powers.map(([generator, exponent]) => `${generator}^${rationals.format(exponent)}`).join('*');
}

/** Moves whole powers of primes and squares of i into the coefficient, drops zero exponents and sorts. */
function tidy(coefficient: Rational, powers: Powers): Term {
  let factor = coefficient;
  const kept: [string, Rational][] = [];
  for (const [generator, exponent] of powers) {
    let rest = exponent;
    if (generator.startsWith('r:')) {
      const whole = rationals.floor(exponent);
      rest = rationals.subtract(exponent, rational(whole));
      factor = rationals.multiply(factor, rationals.power(rational(BigInt(generator.slice(2))), Number(whole)));
    } else if (generator === 'i') {
      const turns = ((exponent.num % 4n) + 4n) % 4n;
      rest = rational(turns % 2n);
      if (turns >= 2n) factor = rationals.negate(factor);
    }
    if (rest.num !== 0n) kept.push([generator, rest]);
  }
  if (rationals.bitLength(factor) > limits.bits) throw new LimitError('coefficient is too large');
  return { coefficient: factor, powers: kept.sort(([x], [y]) => (x < y ? -1 : 1)) };
}

function accumulate(into: Map<string, Term>, term: Term): void {
  const key = powersKey(term.powers);
  const present = into.get(key);
  const coefficient = present ? rationals.add(present.coefficient, term.coefficient) : term.coefficient;
  if (rationals.bitLength(coefficient) > limits.bits) throw new LimitError('coefficient is too large');
  if (coefficient.num === 0n) into.delete(key);
  else into.set(key, { coefficient, powers: term.powers });
}

/** Products and greatest common divisors of n-bit numbers take about n² steps. */
function cost(a: Rational): number {
  return 1 + (rationals.bitLength(a) / 256) ** 2;
}
