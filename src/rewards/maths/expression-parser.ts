import {
  call,
  constant,
  type Expression,
  negative,
  number,
  power,
  product,
  quotient,
  root,
  sum,
  symbol,
} from './expression.js';
import type { Token } from './lexer.js';
import { LimitError, limits, UnreadableError } from './limits.js';
import { isInteger, minusOne } from './rational.js';

/**
 * Parses a scalar expression by recursive descent. Conventions where notation is loose:
 *
 * - `1/2x` is read from left to right, (1/2)·x; `x^10` has the exponent 10 and `\sqrt12` the radicand 12, but `\frac12` is a half;
 * - a whole number before a proper fraction of digits is a mixed number: `3\frac{1}{2}` and `3 1/2` are 3.5;
 * - two numbers side by side are no product, so `3 4` is unreadable;
 * - `e`, `i` and `\pi` are always the constants; `f(x)` outside of a definition is a product;
 * - `\sin^2 x` is a square, `\sin^{-1} x` the inverse function, and `\sin 2x + 1` takes `2x` as its argument.
 *
 * @throws UnreadableError, LimitError
 */
export function parseExpression(tokens: readonly Token[]): Expression {
  return new ExpressionParser(tokens).run();
}

const closingOf: Record<string, string> = { '(': ')', '[': ']', '{': '}' };
const functions = new Set(
  'sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp abs floor ceil cbrt'.split(' '),
);
const inverses: Record<string, string> = { sin: 'arcsin', cos: 'arccos', tan: 'arctan' };
const roundingBrackets: Record<string, [closing: string, name: string]> = {
  lfloor: ['rfloor', 'floor'],
  lceil: ['rceil', 'ceil'],
};

class ExpressionParser {
  readonly #tokens: Token[];
  #position = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = [...tokens];
  }

  run(): Expression {
    const expression = this.#sum();
    if (this.#position < this.#tokens.length) throw new UnreadableError('unexpected token');
    return expression;
  }

  #peek(offset = 0): Token | undefined {
    return this.#tokens[this.#position + offset];
  }

  #at(value: string, offset = 0): boolean {
    const token = this.#peek(offset);
    return token !== undefined && token.value === value && (token.type === 'operator' || token.type === 'name');
  }

  #take(value: string): boolean {
    if (!this.#at(value)) return false;
    this.#position++;
    return true;
  }

  #expect(value: string): void {
    if (!this.#take(value)) throw new UnreadableError(`expected ${value}`);
  }

  #nested<T>(parse: () => T): T {
    if (++this.#depth > limits.nesting) throw new LimitError('expression is nested too deeply');
    const result = parse();
    this.#depth--;
    return result;
  }

  #sum(): Expression {
    const terms = [this.#signed()];
    while (['+', '-', 'pm', 'mp'].some((sign) => this.#at(sign))) terms.push(this.#signed());
    return sum(...terms);
  }

  #signed(): Expression {
    if (this.#take('-')) return negative(this.#product());
    if (this.#take('pm')) return product({ kind: 'plus-minus', sign: 1 }, this.#product());
    if (this.#take('mp')) return product({ kind: 'plus-minus', sign: -1 }, this.#product());
    this.#take('+');
    return this.#product();
  }

  #product(): Expression {
    let result = this.#factor();
    for (;;) {
      if (this.#take('*')) result = product(result, this.#factor());
      else if (this.#take('/')) result = quotient(result, this.#factor());
      else if (this.#startsFactor()) result = product(result, this.#factor());
      else return result;
    }
  }

  /** Whether the next token can follow a factor without a sign between them. */
  #startsFactor(): boolean {
    const token = this.#peek();
    if (!token) return false;
    if (token.type === 'symbol') return true;
    if (token.type === 'name') return !['pm', 'mp', 'rfloor', 'rceil'].includes(token.value);
    return token.type === 'operator' && token.value in closingOf;
  }

  #factor(): Expression {
    return this.#nested(() => {
      if (this.#take('-')) return negative(this.#factor());
      if (this.#take('+')) return this.#factor();
      return this.#power(true);
    });
  }

  #power(mixed: boolean): Expression {
    const base = this.#postfix(this.#primary(mixed));
    return this.#take('^') ? this.#postfix(power(base, this.#exponent())) : base;
  }

  #exponent(): Expression {
    return this.#nested(() => {
      if (this.#take('-')) return negative(this.#exponent());
      if (this.#take('+')) return this.#exponent();
      const exponent = this.#primary(false);
      return this.#take('^') ? power(exponent, this.#exponent()) : exponent;
    });
  }

  #postfix(operand: Expression): Expression {
    let result = operand;
    for (;;) {
      if (this.#take('!')) result = call('factorial', result);
      else if (this.#take('%')) result = quotient(result, number(100));
      else if (this.#take('°')) result = product(result, constant('pi'), power(number(180), number(minusOne)));
      else return result;
    }
  }

  #primary(mixed: boolean): Expression {
    const token = this.#peek();
    if (!token) throw new UnreadableError('expression ends early');
    this.#position++;
    if (token.type === 'number') return mixed ? this.#mixedNumber(token.number!) : token.number!;
    if (token.type === 'symbol') return letter(token.value);
    if (token.type === 'name') return this.#nested(() => this.#named(token.value));
    const closing = token.type === 'operator' ? closingOf[token.value] : undefined;
    if (closing) return this.#nested(() => this.#until(closing));
    if (token.type === 'operator' && token.value === '|') return this.#nested(() => call('abs', this.#until('|')));
    throw new UnreadableError('unexpected token');
  }

  #until(closing: string): Expression {
    const inner = this.#sum();
    this.#expect(closing);
    return inner;
  }

  #mixedNumber(integer: Expression): Expression {
    const parts = this.#at('frac')
      ? this.#peekFraction()
      : this.#peek()?.type === 'number' && this.#at('/', 1) && this.#peek(2)?.type === 'number'
        ? { top: this.#peek()!.number!, bottom: this.#peek(2)!.number!, length: 3 }
        : null;
    if (!parts || integer.kind !== 'number' || parts.top.kind !== 'number' || parts.bottom.kind !== 'number')
      return integer;
    const literals = [integer, parts.top, parts.bottom];
    const proper = literals.every(
      ({ value, decimals }) => isInteger(value) && value.num > 0n && decimals === undefined,
    );
    if (!proper || parts.top.value.num >= parts.bottom.value.num) return integer;
    this.#position += parts.length;
    return sum(integer, quotient(parts.top, parts.bottom));
  }

  /** The parts of the `\frac` ahead, without moving. */
  #peekFraction(): { top: Expression; bottom: Expression; length: number } {
    const start = this.#position;
    this.#position++;
    const [top, bottom] = [this.#argument(), this.#argument()];
    const length = this.#position - start;
    this.#position = start;
    return { top, bottom, length };
  }

  /** The argument of a command: a group, or one token; of a bare number only its first digit. */
  #argument(): Expression {
    return this.#nested(() => {
      const token = this.#peek();
      if (token?.type === 'number' && /^\d\d+$/.test(token.value)) {
        const [first, rest] = [token.value[0]!, token.value.slice(1)];
        const literal = (digits: string): Token => ({ ...token, value: digits, number: number(Number(digits)) });
        if (rest.length > 8) throw new UnreadableError('fraction without braces');
        this.#tokens.splice(this.#position, 1, literal(first), literal(rest));
      }
      return this.#primary(false);
    });
  }

  #named(name: string): Expression {
    if (name === 'pi') return constant('pi');
    if (name === 'infty') return constant('infinity');
    if (name === 'frac') return quotient(this.#argument(), this.#argument());
    if (name === 'binom') return call('binomial', this.#argument(), this.#argument());
    if (name === 'sqrt') return this.#root();
    const rounding = roundingBrackets[name];
    if (rounding) {
      const inner = this.#sum();
      this.#expect(rounding[0]);
      return call(rounding[1], inner);
    }
    if (!functions.has(name)) throw new UnreadableError('unknown name');
    return this.#function(name);
  }

  #root(): Expression {
    const index = this.#take('[') ? this.#until(']') : number(2);
    return root(this.#primary(false), index);
  }

  #function(name: string): Expression {
    const base = name === 'log' && this.#take('_') ? this.#argumentOrNumber() : undefined;
    const exponent = this.#take('^') ? this.#exponent() : undefined;
    const inverse = exponent && inverses[name] && isMinusOne(exponent) ? inverses[name] : undefined;
    const arg = this.#functionArgument();
    const value = applied(inverse ?? name, arg, base);
    return exponent && !inverse ? power(value, exponent) : value;
  }

  #argumentOrNumber(): Expression {
    return this.#nested(() => this.#primary(false));
  }

  /** A group, or the factors up to the next sign or function. */
  #functionArgument(): Expression {
    if (this.#at('(') || this.#at('{') || this.#at('[')) return this.#primary(false);
    let result = this.#factor();
    while (this.#startsFactor() && !functions.has(this.#peek()!.value)) result = product(result, this.#factor());
    return result;
  }
}

function letter(name: string): Expression {
  if (name === 'e' || name === 'i') return constant(name);
  if (name.startsWith('set ')) throw new UnreadableError('a set is no number');
  return symbol(name);
}

function isMinusOne(exponent: Expression): boolean {
  return exponent.kind === 'number' && exponent.value.num === -1n && exponent.value.den === 1n;
}

function applied(name: string, arg: Expression, base?: Expression): Expression {
  if (name === 'exp') return power(constant('e'), arg);
  if (name === 'cbrt') return root(arg, number(3));
  return base ? call('log', arg, base) : call(name, arg);
}
