import type { Relation, RelationOperator } from './answer.js';
import { compareExactly, rationalValue, toQuotient } from './exact.js';
import { type Expression, type NumberExpression, negative, some, sum } from './expression.js';
import { type Budget, LimitError, UnreadableError } from './limits.js';
import { compareNumerically, constantValue } from './numeric.js';
import {
  emptyPolynomial,
  fromTerms,
  multiplyPolynomials,
  type Polynomial,
  type Powers,
  polynomialKey,
  powersKey,
  subtractPolynomials,
  type Term,
} from './polynomial.js';
import * as rationals from './rational.js';
import { isTerminating, rational, toNumber } from './rational.js';

/** Undecided: equality was neither found nor refuted within the limits. */
export type Verdict = 'equal' | 'different' | 'undecided';

/** Exactly where the expressions can be multiplied out, else by evaluation. */
export function compareExpressions(a: Expression, b: Expression, budget: Budget): Verdict {
  if (a.kind === 'number' && b.kind === 'number') return rationals.equal(a.value, b.value) ? 'equal' : 'different';
  return orUndecided(() => {
    try {
      const exact = compareExactly(a, b, budget.part(exactWork));
      if (exact !== 'undecided') return exact;
    } catch (error) {
      // Too large to multiply out, not too large to evaluate. An undefined value (division by zero) ends here: it equals nothing.
      if (!(error instanceof LimitError)) throw error;
    }
    return compareNumerically(a, b, budget);
  });
}

/** Work after which multiplying out gives way to evaluation. */
const exactWork = 50_000;

export function orUndecided(decide: () => Verdict): Verdict {
  try {
    return decide();
  } catch (error) {
    if (error instanceof UnreadableError || error instanceof LimitError) return 'undecided';
    throw error;
  }
}

/**
 * Whether `shown` is the decimal that rounds `exact`, which has no finite decimal of its own (1/3, \sqrt2, \pi). A decimal of fewer than
 * three digits is never taken as rounded, and neither is one that stands for a finite decimal or a decimal: 2.54 is not 2.5.
 */
export function roundsTo(exact: Expression, shown: Expression, budget: Budget): boolean {
  if (shown.kind !== 'number' || shown.decimals === undefined || (shown.digits ?? 0) < 3) return false;
  if (some(exact, (node) => node.kind === 'number' && node.decimals !== undefined)) return false;
  return isRounding(exact, shown, budget) && !hasFiniteDecimal(exact, budget);
}

/** Whether `exact` lies within half a unit of the last decimal shown. */
export function isRounding(exact: Expression, shown: NumberExpression, budget: Budget): boolean {
  const value = constantValue(exact, budget);
  if (!value || Math.abs(value.im) > value.error) return false;
  const half = 0.5 * 10 ** -(shown.decimals ?? 0);
  return Math.abs(value.re - toNumber(shown.value)) + value.error <= half * (1 + 1e-9);
}

function hasFiniteDecimal(expression: Expression, budget: Budget): boolean {
  const value = rationalValue(expression, budget);
  return value !== null && isTerminating(value);
}

/** One side of zero: `left - right` compared with 0 by `operator`, which is never '<' or '<='. */
interface Normal {
  readonly polynomial: Polynomial;
  readonly operator: '=' | '!=' | '>' | '>=';
}

/**
 * Equations are equal when they are the same up to sides, denominators and a constant factor, inequalities up to sides and a positive
 * factor. Other equations with the same solutions (x = 0 and x^2 = 0) are different.
 */
export function compareRelations(a: Relation, b: Relation, budget: Budget): Verdict {
  if (a.operators.length !== b.operators.length) return 'undecided';
  const verdicts = a.operators.map((_, index) =>
    orUndecided(() => compareNormals(normal(a, index, budget), normal(b, index, budget), budget)),
  );
  if (verdicts.every((verdict) => verdict === 'equal')) return 'equal';
  // The links of a chain may be written from either end or regrouped; only a single link can be refuted.
  if (verdicts.length > 1) return 'undecided';
  return verdicts[0]!;
}

const mirrored: Record<RelationOperator, Normal['operator'] | null> = {
  '=': null,
  '!=': null,
  '>': null,
  '>=': null,
  '<': '>',
  '<=': '>=',
};

function normal(relation: Relation, index: number, budget: Budget): Normal {
  const [left, right] = [relation.parts[index]!, relation.parts[index + 1]!];
  const operator = relation.operators[index]!;
  const opposite = mirrored[operator];
  const { num, den } = toQuotient(opposite ? sum(right, negative(left)) : sum(left, negative(right)), budget);
  const kind = opposite ?? (operator as Normal['operator']);
  // Multiplying an inequality by a denominator of unknown sign would change it.
  if (kind.startsWith('>') && den.size > 0 && polynomialKey(den) !== '1*')
    throw new UnreadableError('inequality with a denominator');
  return { polynomial: kind.startsWith('>') ? num : withoutNegativePowers(num), operator: kind };
}

function compareNormals(a: Normal, b: Normal, budget: Budget): Verdict {
  if (a.operator !== b.operator) return 'different';
  if (
    [a, b].some(({ polynomial }) => [...polynomial.values()].every(({ powers }) => variablePowers(powers).length === 0))
  )
    return 'undecided';
  const [p, q] = [byVariables(a.polynomial), byVariables(b.polynomial)];
  const lead = [...p.keys()].sort()[0]!;
  const [c, d] = [p.get(lead) ?? emptyPolynomial, q.get(lead) ?? emptyPolynomial];
  const hasAtoms = [a, b].some(({ polynomial }) => polynomialKey(polynomial).includes('a:'));
  const different = hasAtoms ? 'undecided' : 'different';
  if (d.size === 0) return different;
  const cross = subtractPolynomials(
    multiplyPolynomials(a.polynomial, d, budget),
    multiplyPolynomials(b.polynomial, c, budget),
    budget,
  );
  if (cross.size > 0) return different;
  return a.operator.startsWith('>') ? compareSigns(c, d) : 'equal';
}

/** The factor between two inequalities has to be positive. */
function compareSigns(c: Polynomial, d: Polynomial): Verdict {
  const [s, t] = [c, d].map((p) => (p.size === 1 ? [...p.values()][0]! : null));
  if (
    !s ||
    !t ||
    s.powers.some(([generator]) => generator === 'i') ||
    t.powers.some(([generator]) => generator === 'i')
  )
    return 'undecided';
  return s.coefficient.num > 0n === t.coefficient.num > 0n ? 'equal' : 'different';
}

function variablePowers(powers: Powers): Powers {
  return powers.filter(([generator]) => /^[va]:/.test(generator));
}

/** The coefficients, themselves polynomials in constants, of each product of variables. */
function byVariables(a: Polynomial): Map<string, Polynomial> {
  const groups = new Map<string, Term[]>();
  for (const { coefficient, powers } of a.values()) {
    const key = powersKey(variablePowers(powers));
    if (key === '') continue;
    const rest = powers.filter(([generator]) => !/^[va]:/.test(generator));
    groups.set(key, [...(groups.get(key) ?? []), { coefficient, powers: rest }]);
  }
  return new Map([...groups].map(([key, terms]) => [key, fromTerms(terms)]));
}

/** `x + 1/x = 2` multiplied by x. */
function withoutNegativePowers(a: Polynomial): Polynomial {
  const lowest = new Map<string, rationals.Rational>();
  for (const { powers } of a.values()) {
    for (const [generator, exponent] of powers) {
      const known = lowest.get(generator) ?? rationals.zero;
      if (generator.startsWith('v:') && rationals.compare(exponent, known) < 0) lowest.set(generator, exponent);
    }
  }
  return fromTerms(
    [...a.values()].map(({ coefficient, powers }) => {
      const raised = new Map(powers);
      for (const [generator, exponent] of lowest) {
        raised.set(generator, rationals.subtract(raised.get(generator) ?? rational(0), exponent));
      }
      const kept = [...raised].filter(([, exponent]) => exponent.num !== 0n).sort(([x], [y]) => (x < y ? -1 : 1));
      return { coefficient, powers: kept };
    }),
  );
}
