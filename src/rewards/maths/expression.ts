import * as rationals from './rational.js';
import { minusOne, type Rational, rational } from './rational.js';

/** A scalar expression. Differences, quotients and roots are sums, products and powers. */
export type Expression =
  | NumberExpression
  | { readonly kind: 'constant'; readonly name: ConstantName }
  | { readonly kind: 'symbol'; readonly name: string }
  | { readonly kind: 'sum'; readonly terms: readonly Expression[] }
  | { readonly kind: 'product'; readonly factors: readonly Expression[] }
  | { readonly kind: 'power'; readonly base: Expression; readonly exponent: Expression }
  | { readonly kind: 'call'; readonly name: string; readonly args: readonly Expression[] }
  /** `\pm` (sign 1) or `\mp` (sign -1): a factor that is +1 in one reading of the answer and -1 in the other. */
  | { readonly kind: 'plus-minus'; readonly sign: 1 | -1 };

export interface NumberExpression {
  readonly kind: 'number';
  readonly value: Rational;
  /** Digits after the decimal point as written; absent for integers and computed numbers. */
  readonly decimals?: number;
  /** Digits written, without leading zeros. */
  readonly digits?: number;
}

export type ConstantName = 'pi' | 'e' | 'i' | 'infinity';

export function number(
  value: Rational | number,
  written: { decimals?: number; digits?: number } = {},
): NumberExpression {
  return { kind: 'number', value: typeof value === 'number' ? rational(value) : value, ...written };
}

export function constant(name: ConstantName): Expression {
  return { kind: 'constant', name };
}

export function symbol(name: string): Expression {
  return { kind: 'symbol', name };
}

export function sum(...terms: Expression[]): Expression {
  return terms.length === 1 ? terms[0]! : { kind: 'sum', terms };
}

export function product(...factors: Expression[]): Expression {
  return factors.length === 1 ? factors[0]! : { kind: 'product', factors };
}

/** A negated literal stays a literal, so that `-2.50` keeps its shown precision. */
export function negative(value: Expression): Expression {
  return value.kind === 'number'
    ? { ...value, value: rationals.negate(value.value) }
    : product(number(minusOne), value);
}

export function difference(a: Expression, b: Expression): Expression {
  return sum(a, negative(b));
}

export function quotient(a: Expression, b: Expression): Expression {
  return product(a, power(b, number(minusOne)));
}

export function power(base: Expression, exponent: Expression): Expression {
  return { kind: 'power', base, exponent };
}

export function root(radicand: Expression, index: Expression = number(2)): Expression {
  return power(radicand, power(index, number(minusOne)));
}

export function call(name: string, ...args: Expression[]): Expression {
  return { kind: 'call', name, args };
}

function childrenOf(expression: Expression): readonly Expression[] {
  switch (expression.kind) {
    case 'sum':
      return expression.terms;
    case 'product':
      return expression.factors;
    case 'power':
      return [expression.base, expression.exponent];
    case 'call':
      return expression.args;
    default:
      return [];
  }
}

export function some(expression: Expression, test: (node: Expression) => boolean): boolean {
  return test(expression) || childrenOf(expression).some((child) => some(child, test));
}

export function symbolsOf(expression: Expression, found = new Set<string>()): Set<string> {
  if (expression.kind === 'symbol') found.add(expression.name);
  for (const child of childrenOf(expression)) symbolsOf(child, found);
  return found;
}

/** The expression with every `\pm` read as `sign` and every `\mp` as its opposite. */
export function chooseSign(expression: Expression, sign: 1 | -1): Expression {
  switch (expression.kind) {
    case 'plus-minus':
      return number(expression.sign * sign);
    case 'sum':
      return sum(...expression.terms.map((term) => chooseSign(term, sign)));
    case 'product':
      return product(...expression.factors.map((factor) => chooseSign(factor, sign)));
    case 'power':
      return power(chooseSign(expression.base, sign), chooseSign(expression.exponent, sign));
    case 'call':
      return call(expression.name, ...expression.args.map((arg) => chooseSign(arg, sign)));
    default:
      return expression;
  }
}
