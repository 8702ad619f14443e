import { type Answer, type RelationOperator, type Sequence, value } from './answer.js';
import { chooseSign, constant, type Expression, negative, number, product, some } from './expression.js';
import { parseExpression } from './expression-parser.js';
import { type LexerOptions, type Token, tokenize } from './lexer.js';
import { LimitError, limits, UnreadableError } from './limits.js';
import { normalizeSigns } from './notation.js';
import { parseNumberWords } from './number-words.js';
import { rational } from './rational.js';
import { currency, degree, parseUnit, percent, startsUnit } from './units.js';

/**
 * Parses one answer, without the reply around it. Never throws: what cannot be read becomes text.
 *
 * Leniencies: emphasis, quotes, maths delimiters and a full stop around the answer are dropped; number words count as numbers
 * (`twenty-five`); a single value in square brackets or in parentheses is the value.
 */
export function parseAnswer(source: string, options: LexerOptions = { groupedDigits: true }): Answer {
  try {
    const cleaned = clean(source);
    if (cleaned === '' || cleaned.length > limits.answerLength) return textOf(cleaned);
    return parseChoice(cleaned, options) ?? parseNumeral(cleaned) ?? parseMaths(cleaned, options);
  } catch (error) {
    if (error instanceof UnreadableError || error instanceof LimitError) return textOf(source);
    throw error;
  }
}

/** True when the answer was understood as mathematics or as a choice. */
export function isReadable(answer: Answer): boolean {
  return answer.kind !== 'text';
}

/** Drops what stands around an answer without belonging to it. */
function clean(source: string): string {
  let text = source.slice(0, limits.answerLength + 100).trim();
  for (let before = ''; before !== text; ) {
    before = text;
    text = text
      .replace(/^(?:\*\*|__|[`"'“‘])+/, '')
      .replace(/(?:\*\*|__|\\\\|\\[,;!]|[`"”.,;:])+$/, '')
      .replace(/^[:;,=]+(?!=)/, '')
      .trim();
    // \boxed{…} around the whole answer is a wrapper; inside a larger expression the lexer ignores it.
    if (/^\\(?:boxed|fbox|text)\{[^{}]*\}$/.test(text)) text = text.replace(/^\\[a-z]+\{/, '').slice(0, -1);
  }
  return text;
}

const choicePattern =
  /^(?:\\(?:text|textbf|mathrm|mathbf)\{\s*)?((?:option|choice|answer)\s+)?(\(?)([A-H])(\)?)\}?(\.?)(?:\s+(\S[\s\S]*))?$/i;

/** `(B)`, `B.`, `option B`, `(B) 42`. A bare `B` is left to be a variable, which matches the choice B too. */
function parseChoice(text: string, options: LexerOptions): Answer | null {
  const [, worded, open, letter, close, mark, content] =
    choicePattern.exec(text.replace(/^\$|\$$/g, '').replace(/\\[ ,;]|~/g, ' ')) ?? [];
  if (!letter || (open && !close) || !(worded || close || mark)) return null;
  // A small e in parentheses is the number.
  if (letter === 'e' && !worded) return null;
  if (!content) return { kind: 'choice', letter: letter.toUpperCase(), content: null };
  // `(A) + 1` and `(a, b] \cup …` are no choices.
  if (/^(?:[-+*/^=<>,|]|\\(?:cup|cap|times|cdot|setminus|in|le|ge|l?eq|geq)\b)/.test(content)) return null;
  return { kind: 'choice', letter: letter.toUpperCase(), content: parseAnswer(content, options) };
}

/** `1011_2` or `1A_{16}`: digits of the base, which lies between 2 and 36. */
function parseNumeral(text: string): Answer | null {
  const [, digits, subscript] = /^\$?([0-9A-Za-z]{1,64})_\{?(\d{1,2})\}?\$?$/.exec(text) ?? [];
  const base = Number(subscript);
  if (!digits || !/\d/.test(digits) || base < 2 || base > 36) return null;
  let total = 0n;
  for (const char of digits) {
    const digit = Number.parseInt(char, 36);
    if (digit >= base) return null;
    total = total * BigInt(base) + BigInt(digit);
  }
  return { kind: 'numeral', value: number(rational(total)), digits: digits.toUpperCase() };
}

function parseMaths(text: string, options: LexerOptions): Answer {
  const words = parseNumberWords(text);
  if (words !== null) return value(number(words));
  const tokens = joinDegrees(dropDelimiters(tokenize(text.replace(/^(?:minus|negative) (?=\S)/i, '-'), options)));
  return parseItems(tokens);
}

/**
 * Words, and words with numbers (`June 5`), are compared without case, outer punctuation, articles and LaTeX text commands; mathematics that
 * could not be read is compared as it stands, but for spacing.
 */
function textOf(source: string): Answer {
  if (source.length > limits.answerLength) return { kind: 'text', text: source, prose: false };
  const plain = normalizeSigns(source)
    .replace(/\\(?:text|textbf|textit|mathrm|mathbf|mbox)\b/g, '')
    .replace(/[${}]/g, ' ')
    .toLowerCase()
    .replace(/\s+/g, ' ')
    .replace(/^[\s'"*.,;:!?]+/, '')
    .replace(/(?<![\s'"*.,;:!?])[\s'"*.,;:!?]+$/, '')
    .replace(/^(?:the|an?) /, '');
  if (!/^[\p{L}\p{M}\p{N}\s'",.:()-]+$/u.test(plain))
    return { kind: 'text', text: source.replace(/\s+/g, ' ').trim(), prose: false };
  return { kind: 'text', text: plain, prose: !/\p{N}/u.test(plain) };
}

/** Dollar signs in pairs delimit maths; a single one is a currency. `\$` is always a currency. */
function dropDelimiters(tokens: Token[]): Token[] {
  const isPlain = (token: Token) => token.type === 'operator' && token.value === '$';
  return tokens.filter(isPlain).length % 2 === 0 ? tokens.filter((token) => !isPlain(token)) : tokens;
}

/** `^\circ` and `^{\circ}` become the degree sign. */
function joinDegrees(tokens: Token[]): Token[] {
  return tokens.filter((token, index) => {
    const [next, afterNext] = [tokens[index + 1]?.value, tokens[index + 2]?.value];
    if (token.value === '^') return !(next === '°' || (next === '{' && afterNext === '°'));
    if (token.value === '{') return next !== '°';
    return !(token.value === '}' && tokens[index - 1]?.value === '°' && tokens[index - 2]?.value === '{');
  });
}

// ---- structure: lists, relations, brackets ----

type Tokens = readonly Token[];

const closers: Record<string, string> = {
  '(': ')',
  '[': ']',
  '{': '}',
  '\\{': '\\}',
  langle: 'rangle',
  lfloor: 'rfloor',
  lceil: 'rceil',
};
const closing = new Set(Object.values(closers));

function is(token: Token | undefined, ...values: string[]): boolean {
  return token !== undefined && (token.type === 'operator' || token.type === 'name') && values.includes(token.value);
}

function depthChange(token: Token): number {
  if (token.type !== 'operator' && token.type !== 'name') return 0;
  if (token.value in closers || token.value.startsWith('begin:')) return 1;
  return closing.has(token.value) || token.value.startsWith('end:') ? -1 : 0;
}

/** Splits at the tokens outside of brackets for which `at` holds; the separators are returned too. */
function split(tokens: Tokens, at: (token: Token) => boolean): { parts: Tokens[]; separators: Token[] } {
  const parts: Token[][] = [[]];
  const separators: Token[] = [];
  let depth = 0;
  for (const token of tokens) {
    depth += depthChange(token);
    if (depth === 0 && at(token)) {
      separators.push(token);
      parts.push([]);
    } else parts.at(-1)!.push(token);
  }
  if (parts.length > limits.items) throw new LimitError('too many items');
  return { parts, separators };
}

/** The tokens inside one pair of brackets that encloses them all; null when there is no such pair. */
function inside(tokens: Tokens, ...openers: string[]): Tokens | null {
  if (tokens.length < 2 || !is(tokens[0], ...openers)) return null;
  let depth = 0;
  for (const [index, token] of tokens.entries()) {
    depth += depthChange(token);
    if (depth === 0) return index === tokens.length - 1 ? tokens.slice(1, -1) : null;
  }
  return null;
}

function isSeparator(token: Token): boolean {
  return is(token, ',', ';') || (token.type === 'word' && /^(?:and|or)$/i.test(token.value));
}

/** A whole answer or the inside of brackets: one item, or a list. */
function parseItems(tokens: Tokens): Answer {
  const { parts, separators } = split(tokens, isSeparator);
  const filled = parts.filter((part) => part.length > 0);
  // `1, 2, and 3` has an empty part between the comma and the word; any other is an error.
  const empty = parts.filter((part, index) => part.length === 0 && separators[index]?.type !== 'word');
  if (filled.length === 0 || empty.length > 0) throw new UnreadableError('empty item');
  if (filled.length === 1) return parseItem(filled[0]!);
  const alternatives = separators.some((token) => token.type === 'word' && token.value.toLowerCase() === 'or');
  return { kind: 'list', items: filled.map(parseItem), alternatives };
}

const relationOperators = ['=', '!=', '<', '>', '<=', '>='];

function parseItem(tokens: Tokens): Answer {
  const group = inside(tokens, '{');
  if (group) {
    const answer = parseItems(group);
    return answer.kind === 'list' ? { kind: 'set', items: answer.items } : answer;
  }
  const approximation = split(tokens, (token) => is(token, '≈'));
  if (approximation.separators.length > 0) return parseApproximation(approximation.parts);
  const relation = split(tokens, (token) => is(token, ...relationOperators));
  if (relation.separators.length > 0)
    return parseRelation(
      relation.parts,
      relation.separators.map((token) => token.value as RelationOperator),
    );
  const membership = split(tokens, (token) => is(token, 'in'));
  if (membership.parts.length === 2 && membership.parts[0]!.length === 1) return parseItem(membership.parts[1]!);
  return (
    parseSet(tokens) ?? parseMatrix(tokens) ?? parseBrackets(tokens) ?? parseRatio(tokens) ?? parseQuantity(tokens)
  );
}

/** `\approx 3.14`, `x \approx 3.14` and `\pi \approx 3.14`. */
function parseApproximation(parts: readonly Tokens[]): Answer {
  const [left, right] = [parts[0]!, parts.at(-1)!];
  const approximate = parseItem(right);
  if (left.length === 0 || (left.length === 1 && left[0]!.type === 'symbol')) return approximate;
  return { kind: 'approximation', exact: parseItem(left), approximate };
}

function parseRelation(parts: readonly Tokens[], operators: readonly RelationOperator[]): Answer {
  const left = parts[0]!;
  const name = operators.every((operator) => operator === '=') ? nameOf(left) : null;
  if (name) return { kind: 'named', ...name, values: parts.slice(1).map(parseItem) };
  // Units in a chain (`2 \cdot 3 = 6 \text{ cm}`) belong to the last value; equations with units are not compared.
  if (left.length === 0 && operators.length === 1) return parseItem(parts[1]!);
  return { kind: 'relation', parts: parts.map((part) => parseExpression(withoutUnit(part))), operators };
}

function withoutUnit(tokens: Tokens): Tokens {
  const start = tokens.findIndex((token, index) => index > 0 && token.type === 'word');
  return start > 0 && parseUnit(tokens.slice(start)) ? tokens.slice(0, start) : tokens;
}

/** A left side that only names the value: `x`, `f(x)`, `AB`, `Total cost`. */
function nameOf(tokens: Tokens): { name: string; descriptive: boolean } | null {
  const text = tokens.map((token) => token.value).join(' ');
  if (tokens.length === 1 && tokens[0]!.type === 'symbol') return { name: text, descriptive: false };
  if (
    tokens.some((token) => token.type === 'word') &&
    tokens.every((token) => ['word', 'symbol'].includes(token.type))
  ) {
    return { name: text.toLowerCase(), descriptive: true };
  }
  const letters = tokens.slice(2, -1);
  const isDefinition =
    tokens[0]?.type === 'symbol' &&
    is(tokens[1], '(') &&
    is(tokens.at(-1), ')') &&
    letters.length > 0 &&
    letters.every((token, index) => (index % 2 === 0 ? token.type === 'symbol' : is(token, ',')));
  return isDefinition ? { name: text, descriptive: true } : null;
}

function parseSet(tokens: Tokens): Answer | null {
  if (tokens.length === 1 && is(tokens[0], 'emptyset')) return { kind: 'set', items: [] };
  if (tokens.length === 1 && tokens[0]!.type === 'symbol' && tokens[0]!.value === 'set R') return realLine;
  const union = split(tokens, (token) => is(token, 'cup'));
  if (union.parts.length > 1) return { kind: 'union', items: union.parts.map(parseItem) };
  const without = split(tokens, (token) => is(token, 'setminus', 'backslash'));
  if (without.parts.length === 2)
    return { kind: 'set-difference', from: parseItem(without.parts[0]!), without: parseItem(without.parts[1]!) };
  return null;
}

const realLine: Sequence = {
  kind: 'sequence',
  open: '(',
  close: ')',
  items: [value(negative(constant('infinity'))), value(constant('infinity'))],
};

function parseBrackets(tokens: Tokens): Answer | null {
  const braced = inside(tokens, '\\{');
  if (braced) {
    if (!is(tokens.at(-1), '\\}')) throw new UnreadableError('brackets do not pair');
    if (braced.length === 0) return { kind: 'set', items: [] };
    const condition = split(braced, (token) => is(token, '|', ':'));
    // `\{x \mid x > 2\}` is the set where the condition holds, and is compared as the condition.
    if (condition.parts.length === 2 && condition.parts[0]!.length === 1) return parseItems(condition.parts[1]!);
    const answer = parseItems(braced);
    return { kind: 'set', items: answer.kind === 'list' ? answer.items : [answer] };
  }
  const inner = inside(tokens, '(', '[', 'langle');
  if (!inner || inner.length === 0) return null;
  const answer = parseItems(inner);
  const open = is(tokens[0], '[') ? '[' : '(';
  const close = is(tokens.at(-1), ']') ? ']' : ')';
  const paired = is(tokens.at(-1), closers[tokens[0]!.value]!);
  if (answer.kind !== 'list') {
    if (!paired) throw new UnreadableError('brackets do not pair');
    return answer;
  }
  // Only an interval may be open at one end and closed at the other.
  if (!paired && !(answer.items.length === 2 && is(tokens[0], '(', '[') && is(tokens.at(-1), ')', ']'))) {
    throw new UnreadableError('brackets do not pair');
  }
  return { kind: 'sequence', open, close, items: answer.items };
}

/** A matrix with an optional scalar factor in front. The kind of brackets does not matter. */
function parseMatrix(tokens: Tokens): Answer | null {
  const start = tokens.findIndex((token) => is(token, 'begin:matrix'));
  if (start < 0 || !is(tokens.at(-1), 'end:matrix')) return null;
  const inner = inside(tokens.slice(start), 'begin:matrix');
  if (!inner) return null;
  const rows = split(inner, (token) => is(token, '\\\\')).parts.filter((row) => row.length > 0);
  const cells = rows.map((row) => split(row, (token) => is(token, '&')).parts.map(parseItem));
  const prefix = is(tokens[start - 1], '*') ? tokens.slice(0, start - 1) : tokens.slice(0, start);
  if (prefix.length === 0) return { kind: 'matrix', rows: cells };
  const factor = is(prefix[0], '-') && prefix.length === 1 ? number(-1) : parseExpression(prefix);
  return { kind: 'matrix', rows: cells.map((row) => row.map((cell) => scale(factor, cell))) };
}

function scale(factor: Expression, cell: Answer): Answer {
  if (cell.kind !== 'value') throw new UnreadableError('a matrix entry is no number');
  return value(product(factor, cell.value), cell.unit);
}

function parseRatio(tokens: Tokens): Answer | null {
  const { parts } = split(tokens, (token) => is(token, ':'));
  return parts.length > 1 ? { kind: 'ratio', items: parts.map(parseExpression) } : null;
}

/** A number or expression with its unit before (`$5`) or after it (`5 cm`, `50\%`, `30^\circ`). */
function parseQuantity(tokens: Tokens): Answer {
  const signed = is(tokens[0], '-') && currency(tokens[1]?.value ?? '') !== null;
  const prefix = tokens[signed ? 1 : 0];
  const money = prefix?.type === 'operator' ? currency(prefix.value) : null;
  const body = money ? [...(signed ? [tokens[0]!] : []), ...tokens.slice(signed ? 2 : 1)] : tokens;
  const last = body.at(-1);
  if (is(last, '%') && isSingleAmount(body)) return quantity(body.slice(0, -1), percent);
  if (is(last, '°') && isSingleAmount(body)) return quantity(body.slice(0, -1), degree);
  if (last?.type === 'operator' && currency(last.value)) return quantity(body.slice(0, -1), currency(last.value));
  const start = body.findIndex(
    (token, index) => index > 0 && startsUnit(token) && !is(body[index - 1], '+', '-', '*', '^', '('),
  );
  const words = start > 0 ? parseUnit(body.slice(start)) : null;
  if (!words) return quantity(body, money);
  // `5 bolts of fabric` is an amount, `I do not know` is a sentence.
  const hasNumber = body.slice(0, start).some((token) => token.type === 'number');
  if (words.unit?.known === false && (!hasNumber || body.length - start > 8)) throw new UnreadableError('a sentence');
  const amount = parseExpression(body.slice(0, start));
  const after = body.slice(words.magnitude ? start + 1 : start);
  const rate = money && (after[0]?.value === 'per' || is(after[0], '/')) ? parseUnit([prefix!, ...after])?.unit : null;
  return signs(words.magnitude ? product(amount, words.magnitude) : amount, rate ?? money ?? words.unit);
}

/** Whether a sign at the end belongs to the whole: in `x + 5%` and `\sin 30°` it does not. */
function isSingleAmount(tokens: Tokens): boolean {
  const inner = tokens.slice(1, -1);
  const hasFunction = tokens.some((token) => token.type === 'name' && !['frac', 'sqrt', 'pi'].includes(token.value));
  return !hasFunction && split(inner, (token) => is(token, '+', '-', '%', '°')).parts.length === 1;
}

function quantity(tokens: Tokens, unit: Parameters<typeof value>[1]): Answer {
  return signs(parseExpression(tokens), unit);
}

/** `a ± b` is the list of its two values. */
function signs(expression: Expression, unit: Parameters<typeof value>[1]): Answer {
  if (!some(expression, (node) => node.kind === 'plus-minus')) return value(expression, unit);
  const both = ([1, -1] as const).map((sign) => value(chooseSign(expression, sign), unit));
  return { kind: 'list', items: both, alternatives: true };
}
