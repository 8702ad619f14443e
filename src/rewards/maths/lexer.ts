import { type NumberExpression, number } from './expression.js';
import { LimitError, limits, UnreadableError } from './limits.js';
import {
  functionNames,
  greek,
  ignoredCommands,
  normalizeSigns,
  shortUnits,
  shortWords,
  synonyms,
  textCommands,
} from './notation.js';
import { fromDecimal } from './rational.js';

/**
 * A token of LaTeX or plain maths.
 *
 * - `number`: a literal with its value.
 * - `symbol`: one variable, `\alpha` and `x_{12}` included.
 * - `name`: a function, a constant or a LaTeX command, without the backslash.
 * - `word`: a word of a language. Words cannot be calculated with; they make units and text answers.
 * - `operator`: a sign or bracket; set braces are `\{` and `\}`.
 */
export interface Token {
  readonly type: 'number' | 'symbol' | 'name' | 'word' | 'operator';
  readonly value: string;
  readonly number?: NumberExpression;
  /** Letters of `\text{m}` or `\mathrm{m}`, or a letter set off by a space: may be a unit. */
  readonly apart: boolean;
}

export interface LexerOptions {
  /** Read `1,234` outside of brackets as one number (else as two). */
  readonly groupedDigits: boolean;
}

/**
 * Splits an answer into tokens.
 * @throws UnreadableError at a sign that no mathematical answer has
 */
export function tokenize(source: string, options: LexerOptions): Token[] {
  return new Lexer(normalizeSigns(source), options).run();
}

class Lexer {
  readonly #source: string;
  readonly #options: LexerOptions;
  readonly #tokens: Token[] = [];
  /** One entry an open bracket: 'text' for the braces of a text command. */
  readonly #open: ('text' | 'brace' | 'bracket')[] = [];
  #position = 0;

  constructor(source: string, options: LexerOptions) {
    this.#source = source;
    this.#options = options;
  }

  run(): Token[] {
    while (this.#position < this.#source.length) this.#step();
    return this.#tokens;
  }

  #step(): void {
    const char = this.#source[this.#position]!;
    if (/\s/.test(char)) this.#position++;
    else if (/\d/.test(char) || (char === '.' && /\d/.test(this.#source[this.#position + 1] ?? ''))) this.#number();
    else if (/[A-Za-z]/.test(char)) this.#letters();
    else if (char === '\\') this.#command();
    else if (/\p{L}/u.test(char)) this.#push('word', this.#match(/[\p{L}\p{M}]+/uy)!);
    else this.#operator(char);
  }

  #match(pattern: RegExp): string | null {
    pattern.lastIndex = this.#position;
    const found = pattern.exec(this.#source)?.[0] ?? null;
    if (found) this.#position += found.length;
    return found;
  }

  #push(type: Token['type'], value: string, apart = this.#inText()): void {
    this.#tokens.push({ type, value, apart });
  }

  #inText(): boolean {
    return this.#open.at(-1) === 'text';
  }

  #number(): void {
    const bare = !this.#open.includes('bracket');
    const grouped =
      (this.#options.groupedDigits && bare && this.#match(/[1-9]\d{0,2}(?:,\d{3})+(?!\d)/y)) ||
      this.#match(/[1-9]\d{0,2}(?: \d{3})+(?![\d/])/y);
    const integer = (grouped ?? this.#match(/\d+/y) ?? '').replaceAll(/[, ]/g, '');
    const fraction = this.#match(/\.\d+/y)?.slice(1) ?? (this.#match(/\.(?=\\(?:overline|bar|dot)\{?\d)/y) ? '' : null);
    const repeating =
      fraction === null
        ? ''
        : (this.#match(/\\(?:overline|bar)\{\d+\}|\\dot\{\d\}|\\dot\d/y) ?? '').replaceAll(/\D/g, '');
    const exponent = this.#match(/[eE][+-]?\d+/y)?.slice(1) ?? '0';
    const digits = `${integer}${fraction ?? ''}`.replace(/^0+/, '').length;
    const written = fraction === null ? { digits } : { digits, decimals: fraction.length };
    const value = fromDecimal(integer, fraction ?? '', repeating, Number(exponent));
    const exact = fraction === null || repeating !== '' || exponent !== '0';
    this.#tokens.push({
      type: 'number',
      value: `${integer}${fraction === null ? '' : `.${fraction}`}`,
      number: number(value, exact ? { digits } : written),
      apart: false,
    });
  }

  /** A run of letters: function names, words, or the product of its letters. */
  #letters(): void {
    const before = this.#source[this.#position - 1] ?? '';
    const run = this.#match(/[A-Za-z]+/y)!;
    const after = this.#source[this.#position] ?? '';
    const previous = this.#tokens.at(-1);
    if (
      run === 'x' &&
      previous?.type === 'number' &&
      /^\s*10\s*\^/.test(this.#source.slice(this.#position, this.#position + 20))
    ) {
      this.#push('operator', '*'); // 1.2 x 10^3
    } else if (functionNames.has(run) || greek.has(run)) this.#named(run);
    else if (run.length === 1) this.#symbol(run, this.#inText() || /\s/.test(before));
    else if (this.#inText() || isWord(run, before, after)) this.#push('word', run, true);
    else this.#split(run);
  }

  /** `sinx` is sin x, `pir` is pi r, anything else the product of its letters. */
  #split(run: string): void {
    for (let rest = run; rest.length > 0; ) {
      const name = [...functionNames]
        .filter((candidate) => candidate.length > 1 && rest.startsWith(candidate))
        .sort((a, b) => b.length - a.length)[0];
      if (name) this.#named(name);
      else if (rest.length === 1) this.#symbol(rest, false);
      else this.#push('symbol', rest[0]!);
      rest = rest.slice(name?.length ?? 1);
    }
  }

  #named(name: string): void {
    const meaning = synonyms.get(name) ?? name;
    if (greek.has(meaning)) this.#symbol(meaning, false);
    else if (/^[a-z]+$/i.test(meaning)) this.#push('name', meaning);
    else this.#push('operator', meaning);
  }

  /** A variable with its subscript and primes, which belong to its name. */
  #symbol(letter: string, apart: boolean): void {
    const subscript = this.#match(/_(?:[A-Za-z0-9]|\{[A-Za-z0-9,+-]{1,20}\})/y) ?? '';
    const primes = this.#match(/'+/y) ?? '';
    this.#push('symbol', `${letter}${subscript.replaceAll(/[{}]/g, '')}${primes}`, apart);
  }

  #command(): void {
    const name = this.#match(/\\[A-Za-z]+/y)?.slice(1);
    if (name === undefined) this.#escaped();
    else if (name === 'begin' || name === 'end') this.#environment(name);
    else if (textCommands.has(name)) this.#text();
    else if (name === 'mathbb') this.#blackboard();
    else if (ignoredCommands.has(name)) {
      // \left. and \right. are invisible brackets.
      if (name === 'left' || name === 'right') this.#match(/\s*\.(?!\d)/y);
    } else this.#named(name);
  }

  /** `\{`, `\%`, `\$`, `\\` and the delimiters of inline maths. */
  #escaped(): void {
    const char = this.#source[this.#position + 1] ?? '';
    this.#position += 2;
    if (char === '{' || char === '}') this.#bracket(`\\${char}`);
    else if (char === '\\') this.#push('operator', '\\\\');
    else if (char === '$') this.#push('operator', '\\$');
    else if (char !== '' && '%|&_#'.includes(char)) this.#operatorToken(char);
    else if (!'()[]'.includes(char)) throw new UnreadableError('unknown command');
  }

  #environment(which: 'begin' | 'end'): void {
    const name = this.#match(/\s*\{[a-zA-Z*]{1,20}\}/y)?.replaceAll(/[\s{}]/g, '') ?? '';
    if (!/^(?:[pbBvV]?matrix|smallmatrix|array)$/.test(name)) throw new UnreadableError('unknown environment');
    if (which === 'begin' && name === 'array') this.#match(/\s*\{[lcr| ]{0,64}\}/y);
    if (which === 'begin') this.#enter('bracket');
    else this.#open.pop();
    this.#push('operator', `${which}:${/^[vV]/.test(name) ? 'determinant' : 'matrix'}`);
  }

  #text(): void {
    if (this.#match(/\*?\s*\{/y)) this.#enter('text');
  }

  #blackboard(): void {
    const letter = this.#match(/\s*\{?\s*[A-Z]\s*\}?/y)?.replaceAll(/[\s{}]/g, '');
    if (!letter) throw new UnreadableError('unknown set');
    this.#push('symbol', `set ${letter}`);
  }

  #operator(char: string): void {
    this.#position++;
    if ('([{)]}'.includes(char)) this.#bracket(char);
    else this.#operatorToken(char);
  }

  #operatorToken(char: string): void {
    const pair = `${char}${this.#source[this.#position] ?? ''}`;
    if (['<=', '>=', '!=', '=='].includes(pair)) {
      this.#position++;
      this.#push('operator', pair === '==' ? '=' : pair);
    } else if (pair === '**') {
      this.#position++;
      this.#push('operator', '^');
    } else if ('+-*/^_=<>|!\',;:&%$°≈€£¥₹¢.?"'.includes(char)) this.#push('operator', char);
    else throw new UnreadableError('unknown sign');
  }

  #bracket(char: string): void {
    if (['(', '[', '\\{'].includes(char)) this.#enter('bracket');
    else if (char === '{') this.#enter('brace');
    else if (this.#open.pop() === 'text') return;
    this.#push('operator', char);
  }

  #enter(what: 'text' | 'brace' | 'bracket'): void {
    if (this.#open.length >= limits.nesting) throw new LimitError('brackets are nested too deeply');
    this.#open.push(what);
  }
}

/** Whether a run of two or more letters is a word. Up to four different letters that are common variables make a product: `2xyz`. */
function isWord(run: string, before: string, after: string): boolean {
  if (/^(?:sin|cos|tan|cot|sec|csc|ln|log|sqrt)[xy]$|^pir$/.test(run)) return false;
  if (/\d/.test(before) && shortUnits.has(run)) return true;
  if (run.length === 2) return shortWords.has(run.toLowerCase()) || (/\s/.test(before) && shortUnits.has(run));
  const joined = /[\d^_+*/()=\\{}]/.test(before) || /[\d^_+*/()=\\{}]/.test(after);
  return !(joined && run.length <= 4 && /^[abcdkmnpqrstuvwxyz]+$/.test(run) && new Set(run).size === run.length);
}
