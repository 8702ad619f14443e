import { constant, type Expression, number, product, quotient } from './expression.js';
import type { Token } from './lexer.js';
import { multiply, power, type Rational, rational } from './rational.js';

/** What a number counts. */
export interface Unit {
  /**
   * What has to be the same for two units to be comparable: powers of base units (`length^2`), empty for pure numbers (percent, degrees), or
   * the words themselves where they are not in the table.
   */
  readonly dimension: string;
  /** The unit in base units of its dimension. */
  readonly factor: Expression;
  /** False for words that the table does not have. */
  readonly known: boolean;
}

export const percent: Unit = { dimension: '', factor: number(rational(1, 100)), known: true };
export const degree: Unit = { dimension: '', factor: quotient(constant('pi'), number(180)), known: true };
const radian: Unit = { dimension: '', factor: number(1), known: true };

const table = new Map<string, readonly [base: string, exponent: number, factor: Rational]>();

function define(base: string, exponent: number, units: Record<string, Rational>): void {
  for (const [names, factor] of Object.entries(units)) {
    for (const name of names.split(' ')) table.set(name, [base, exponent, factor]);
  }
}

const kilo = rational(1000);
const centi = rational(1, 100);
const milli = rational(1, 1000);

define('length', 1, {
  'mm millimeter millimetre': milli,
  'cm centimeter centimetre': centi,
  'dm decimeter decimetre': rational(1, 10),
  'm meter metre': rational(1),
  'km kilometer kilometre': kilo,
  'in inch': rational(254, 10000),
  'ft foot': rational(3048, 10000),
  'yd yard': rational(9144, 10000),
  'mi mile': rational(1609344, 1000),
});
define('length', 3, { 'ml milliliter millilitre': rational(1, 1_000_000), 'l liter litre': milli });
define('mass', 1, {
  'mg milligram': milli,
  'g gram': rational(1),
  'kg kilogram': kilo,
  'lb pound': rational(45359237, 100000),
  'oz ounce': rational(45359237, 1600000),
});
define('time', 1, {
  's sec second': rational(1),
  'min minute': rational(60),
  'h hr hour': rational(3600),
  day: rational(86400),
  week: rational(604800),
});
define('dollar', 1, { '$ dollar usd buck': rational(1), '¢ cent': centi });
define('euro', 1, { '€ euro eur': rational(1) });
define('sterling', 1, { '£ gbp': rational(1) });
define('yen', 1, { '¥ yen': rational(1) });
define('rupee', 1, { '₹ rupee rs inr': rational(1) });

const abbreviations = new Map([
  ['mph', ['mile', '/', 'hour']],
  ['kph', ['km', '/', 'hour']],
  ['kmh', ['km', '/', 'hour']],
]);

/** Single letters that are units when they stand apart from their number: `5 m`, `5\text{ s}`. */
const letterUnits = new Set('m g s h l L N J W V'.split(' '));

const magnitudes = new Map<string, Rational>([
  ['dozen', rational(12)],
  ['hundred', rational(100)],
  ['thousand', kilo],
  ['million', power(rational(10), 6)],
  ['billion', power(rational(10), 9)],
  ['trillion', power(rational(10), 12)],
]);

export function currency(sign: string): Unit | null {
  const entry = table.get(sign.replace('\\', '').toLowerCase());
  return entry && !/[a-z]/i.test(sign) ? { dimension: `${entry[0]}^1`, factor: number(entry[2]), known: true } : null;
}

/** Whether a unit may begin with this token. */
export function startsUnit(token: Token): boolean {
  return token.type === 'word' || (token.type === 'symbol' && token.apart && letterUnits.has(token.value));
}

/**
 * Reads the words after a number: a magnitude (`million`, which multiplies), then a unit. Units are a known one (`cm`, `square feet`,
 * `km/h`, `dollars per hour`) or any words (`bolts of fabric`). Words after a known unit are ignored: `5 dollars each` is 5 dollars.
 * Null when the tokens are not words.
 */
export function parseUnit(tokens: readonly Token[]): { magnitude: Expression | null; unit: Unit | null } | null {
  const parts = tokens.map((token) => token.value.toLowerCase());
  if (!tokens.every((token, index) => isUnitToken(token, tokens[index - 1]))) return null;
  const scale = magnitudes.get(singular(parts[0] ?? ''));
  const rest = (scale ? parts.slice(1) : parts).filter((part) => !['{', '}', '.', ',', '(', ')'].includes(part));
  return { magnitude: scale ? number(scale) : null, unit: rest.length === 0 ? null : readUnit(rest) };
}

function isUnitToken(token: Token, previous: Token | undefined): boolean {
  if (token.type === 'word') return true;
  if (token.type === 'symbol') return letterUnits.has(token.value) || token.apart;
  if (token.type === 'number') return /^\d$/.test(token.value) && ['^', '-', '{'].includes(previous?.value ?? '');
  return (
    token.type === 'operator' &&
    ['/', '^', '-', '{', '}', '.', '*', "'", '(', ')', '$', '\\$', '¢', '€', ','].includes(token.value)
  );
}

function readUnit(parts: readonly string[]): Unit | null {
  const text = parts.map(singular).join(' ');
  if (/^(percentage points?|percent|per cent|pct)/.test(text)) return percent;
  if (/^(degree|deg)$/.test(text)) return degree;
  if (/^(radian|rad)$/.test(text)) return radian;
  if (/^(square |cubic )?unit( (squared|cubed|\^ [23]))?$/.test(text)) return null;
  return (
    readProduct(parts.flatMap((part) => abbreviations.get(part) ?? part)) ?? {
      dimension: text,
      factor: number(1),
      known: false,
    }
  );
}

/** A product of known units with whole powers; null when a word that matters is not known. */
function readProduct(parts: readonly string[]): Unit | null {
  const exponents = new Map<string, number>();
  let factor = rational(1);
  let direction = 1;
  let position = 0;
  let read = 0;
  while (position < parts.length) {
    if (parts[position] === 'per' || parts[position] === '/') {
      direction = -1;
      position++;
    } else if (parts[position] === '*') position++;
    let exponent = direction;
    if (/^(square|sq|cubic|cu)$/.test(parts[position] ?? '')) exponent *= parts[position++]!.startsWith('sq') ? 2 : 3;
    const name = parts[position] ?? '';
    const entry = table.get(name) ?? table.get(singular(name));
    if (!entry) {
      // `5 dollars each`: the words after a known unit do not change it, those of a denominator do.
      if (read === 0 || direction < 0) return null;
      break;
    }
    position++;
    if (parts[position] === '^') {
      const sign = parts[position + 1] === '-' ? -1 : 1;
      const digits = parts[position + (sign < 0 ? 2 : 1)] ?? '';
      if (!/^\d$/.test(digits)) return null;
      exponent *= sign * Number(digits);
      position += sign < 0 ? 3 : 2;
    } else if (parts[position] === 'squared' || parts[position] === 'cubed')
      exponent *= parts[position++] === 'squared' ? 2 : 3;
    exponents.set(entry[0], (exponents.get(entry[0]) ?? 0) + exponent * entry[1]);
    factor = multiply(factor, power(entry[2], exponent));
    read++;
  }
  const dimension = [...exponents].filter(([, exponent]) => exponent !== 0).sort();
  return {
    dimension: dimension.map(([base, exponent]) => `${base}^${exponent}`).join(' '),
    factor: number(factor),
    known: true,
  };
}

function singular(word: string): string {
  if (word === 'feet') return 'foot';
  if (word === 'inches') return 'inch';
  return word.length > 2 && word.endsWith('s') && !word.endsWith('ss') ? word.slice(0, -1) : word;
}

/** A value in base units. */
export function inBaseUnits(value: Expression, unit: Unit): Expression {
  return product(value, unit.factor);
}
