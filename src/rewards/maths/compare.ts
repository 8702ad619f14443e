import { type Answer, type Named, type Relation, type Sequence, value } from './answer.js';
import { parseAnswer } from './answer-parser.js';
import {
  compareExpressions,
  compareRelations,
  isRounding,
  orUndecided,
  roundsTo,
  type Verdict,
} from './compare-expressions.js';
import { constant, type Expression, negative, number, product, symbol, symbolsOf } from './expression.js';
import { Budget, limits } from './limits.js';
import { rational } from './rational.js';
import { inBaseUnits, type Unit } from './units.js';

export interface CompareOptions {
  /**
   * Accept an exact answer without a finite decimal (1/3, \sqrt2) where the second answer is its rounding to three or more digits (0.333,
   * 1.414). For a label, which somebody had to write down in decimals; off by default.
   */
  readonly allowRoundedReference?: boolean;
}

/**
 * Whether two answers, given without the replies around them, mean the same. Symmetric, unless `allowRoundedReference` is set.
 *
 * Leniencies: order in lists and sets; brackets around a single value; a unit, percent sign, degree sign or number base that only one side
 * has (50% matches 50 and 0.5); a name that only one side has (`x = 5` and `5`); an inequality and its interval; a list and the set of its items; `:` and a
 * fraction for ratios of two.
 * Nothing is rounded, and open and closed brackets, tuples and sets stay what they are.
 */
export function compareAnswers(a: string, b: string, options: CompareOptions = {}): Verdict {
  const [left, right] = [a.trim(), b.trim()];
  if (left === '' || right === '') return 'undecided';
  if (left === right) return 'equal';
  const compare = (groupedDigits: boolean) => {
    const comparison = new Comparison(options.allowRoundedReference ?? false);
    return orUndecided(() =>
      comparison.compare(parseAnswer(left, { groupedDigits }), parseAnswer(right, { groupedDigits })),
    );
  };
  const verdict = compare(true);
  // `100,200` is one number or two; where the other answer has a list, two.
  const ambiguous = [left, right].some((text) => text.length <= limits.answerLength && /\d,\d{3}(?!\d)/.test(text));
  return verdict !== 'equal' && ambiguous && compare(false) === 'equal' ? 'equal' : verdict;
}

class Comparison {
  readonly #budget = new Budget();
  readonly #roundedReference: boolean;

  constructor(roundedReference: boolean) {
    this.#roundedReference = roundedReference;
  }

  compare(a: Answer, b: Answer): Verdict {
    if (a.kind === 'text' || b.kind === 'text') return compareTexts(a, b);
    if (a.kind === 'choice' || b.kind === 'choice') return this.#choices(a, b);
    if (a.kind === 'approximation' || b.kind === 'approximation') return this.#approximations(a, b);
    if (a.kind === 'numeral' || b.kind === 'numeral') return this.#numerals(a, b);
    return this.#namedValues(a, b);
  }

  #choices(a: Answer, b: Answer): Verdict {
    if (a.kind === 'choice' && b.kind === 'choice') return a.letter === b.letter ? 'equal' : 'different';
    const [choice, other] = a.kind === 'choice' ? [a, b] : [b, a];
    if (choice.kind !== 'choice') return 'undecided';
    const letter = letterOf(other);
    if (letter) return letter === choice.letter ? 'equal' : 'different';
    if (!choice.content) return 'different';
    return a.kind === 'choice' ? this.compare(choice.content, b) : this.compare(a, choice.content);
  }

  /** `x ≈ y` means x, and y too where y is a correct rounding of x. */
  #approximations(a: Answer, b: Answer): Verdict {
    const readings = (answer: Answer): Answer[] => {
      if (answer.kind !== 'approximation') return [answer];
      const { exact, approximate } = answer;
      const [x, y] = [plainValue(exact), plainValue(approximate)];
      return x && y?.kind === 'number' && isRounding(x, y, this.#budget) ? [exact, approximate] : [exact];
    };
    // Two approximations are compared by what is exact about them.
    const both = a.kind === 'approximation' && b.kind === 'approximation';
    const lefts = both ? readings(a).slice(0, 1) : readings(a);
    const rights = both ? readings(b).slice(0, 1) : readings(b);
    return any(lefts.flatMap((x) => rights.map((y) => this.compare(x, y))));
  }

  /** A base that only one side has may have been left out: `1011_2` matches 1011 and its value 11. */
  #numerals(a: Answer, b: Answer): Verdict {
    if (a.kind === 'numeral' && b.kind === 'numeral') return compareExpressions(a.value, b.value, this.#budget);
    const readings = (answer: Answer): Answer[] => {
      if (answer.kind !== 'numeral') return [answer];
      const digits = /^\d+$/.test(answer.digits) ? [value(number(rational(BigInt(answer.digits))))] : [];
      return [value(answer.value), ...digits];
    };
    return any(readings(a).flatMap((x) => readings(b).map((y) => this.compare(x, y))));
  }

  /** Sets names aside. Both names have to agree where both sides have one. */
  #namedValues(a: Answer, b: Answer): Verdict {
    const [x, y] = [withoutName(a), withoutName(b)];
    if (!x || !y) return this.#systems(a, b);
    if (x.name !== null && y.name !== null && x.name !== y.name && !x.descriptive && !y.descriptive) {
      return a.kind === 'named' && b.kind === 'named' ? this.#equations(a, b) : 'different';
    }
    if (x.name !== null && b.kind === 'relation' && a.kind === 'named') return this.#equations(a, b);
    if (y.name !== null && a.kind === 'relation' && b.kind === 'named') return this.#equations(a, b);
    // In a chain x = 2 + 3 = 5 every link has to be right.
    return every(x.values.flatMap((left) => y.values.map((right) => this.#values(left, right))));
  }

  #equations(a: Named | Relation, b: Named | Relation): Verdict {
    const [p, q] = [asRelation(a), asRelation(b)];
    return p && q ? compareRelations(p, q, this.#budget) : 'different';
  }

  /** `x = 1, y = 2`: several names, so that bare values cannot be assigned to them. */
  #systems(a: Answer, b: Answer): Verdict {
    return a.kind === 'list' && b.kind === 'list' && !withoutName(a) && !withoutName(b)
      ? this.#unordered(a.items, b.items)
      : 'undecided';
  }

  #values(a: Answer, b: Answer): Verdict {
    if (a.kind === 'value' && b.kind === 'value') return this.#quantities(a, b);
    if (a.kind === 'sequence' && b.kind === 'sequence') return this.#sequences(a, b);
    if (a.kind === 'matrix' && b.kind === 'matrix') return this.#matrices(a.rows, b.rows);
    if (a.kind === 'relation' && b.kind === 'relation') return this.#relations(a, b);
    if (a.kind === 'ratio' || b.kind === 'ratio') return this.#ratios(a, b);
    if (a.kind === 'relation' || b.kind === 'relation') return this.#relationWithOther(a, b);
    if (a.kind === 'set-difference' && b.kind === 'set-difference') {
      // The same set can be written in many ways, so that parts that differ prove nothing.
      return onlyEqual(every([this.compare(a.from, b.from), this.compare(a.without, b.without)]));
    }
    if (a.kind === 'set-difference' || b.kind === 'set-difference') return 'undecided';
    if (a.kind === 'union' || b.kind === 'union') return this.#unions(a, b);
    if (a.kind === 'matrix' || b.kind === 'matrix') return this.#matrixWithOther(a, b);
    if (hasConditions(a) !== hasConditions(b)) return 'undecided';
    if (a.kind === 'sequence' || b.kind === 'sequence') return 'different';
    // Alternatives (`0.5 or 1/2`) are the set of what they say.
    return this.#unordered(
      itemsOf(a),
      itemsOf(b),
      [a, b].some((x) => x.kind === 'set' || (x.kind === 'list' && x.alternatives)),
    );
  }

  #quantities(a: { value: Expression; unit: Unit | null }, b: { value: Expression; unit: Unit | null }): Verdict {
    if (a.unit && b.unit) {
      if (a.unit.dimension === b.unit.dimension) {
        const sameUnit = compareExpressions(a.unit.factor, b.unit.factor, this.#budget) === 'equal';
        if (sameUnit) return this.#expressions(a.value, b.value);
        return compareExpressions(inBaseUnits(a.value, a.unit), inBaseUnits(b.value, b.unit), this.#budget);
      }
      if (a.unit.known && b.unit.known) return 'different';
      return this.#expressions(a.value, b.value) === 'different' ? 'different' : 'undecided';
    }
    const plain = this.#expressions(a.value, b.value);
    const unit = a.unit ?? b.unit;
    if (plain === 'equal' || unit?.dimension !== '') return plain;
    // 50% is also 0.5, and 180° is also \pi.
    const [left, right] = [
      a.unit ? inBaseUnits(a.value, unit) : a.value,
      b.unit ? inBaseUnits(b.value, unit) : b.value,
    ];
    return any([plain, this.#expressions(left, right)]);
  }

  #expressions(a: Expression, b: Expression): Verdict {
    const verdict = compareExpressions(a, b, this.#budget);
    if (verdict === 'equal' || !this.#roundedReference) return verdict;
    return orUndecided(() => (roundsTo(a, b, this.#budget) ? 'equal' : verdict));
  }

  #sequences(a: Sequence, b: Sequence): Verdict {
    const nested = [a, b].map(matrixRows);
    if (a.open !== b.open || a.close !== b.close || a.items.length !== b.items.length) return 'different';
    if (nested[0] && nested[1]) return this.#matrices(nested[0], nested[1]);
    return every(a.items.map((item, index) => this.compare(item, b.items[index]!)));
  }

  #matrices(a: readonly (readonly Answer[])[], b: readonly (readonly Answer[])[]): Verdict {
    if (a.length !== b.length || a.some((row, index) => row.length !== b[index]!.length)) return 'different';
    return every(a.flatMap((row, r) => row.map((cell, c) => this.compare(cell, b[r]![c]!))));
  }

  /** `[[1, 2], [3, 4]]` is a matrix; whether a tuple is meant as a row, a column or neither is open. */
  #matrixWithOther(a: Answer, b: Answer): Verdict {
    const [rows, others] = [rowsOf(a), rowsOf(b)];
    if (rows && others) return this.#matrices(rows, others);
    return a.kind === 'sequence' || b.kind === 'sequence' ? 'undecided' : 'different';
  }

  #relations(a: Relation, b: Relation): Verdict {
    const [x, y] = [toInterval(a), toInterval(b)];
    if (x && y) return x.name === y.name ? this.#sequences(x.interval, y.interval) : 'different';
    return compareRelations(a, b, this.#budget);
  }

  #relationWithOther(a: Answer, b: Answer): Verdict {
    const [relation, other] = a.kind === 'relation' ? [a, b] : [b, a];
    if (relation.kind !== 'relation') return 'undecided';
    const interval = toInterval(relation)?.interval;
    if (interval) return other.kind === 'sequence' ? this.#sequences(interval, other) : 'undecided';
    // 2 + 3 = 5 is the value 5 where it is true; what an equation with unknowns says about a bare value is open.
    const isChain =
      relation.operators.every((operator) => operator === '=') &&
      relation.parts.every((part) => symbolsOf(part).size === 0);
    if (!isChain) return 'undecided';
    const verdicts = relation.parts.map((part) =>
      a === relation ? this.compare(value(part), b) : this.compare(a, value(part)),
    );
    return every(verdicts);
  }

  #ratios(a: Answer, b: Answer): Verdict {
    const [p, q] = [ratioItems(a), ratioItems(b)];
    if (!p || !q) return 'different';
    if (p.length !== q.length) return 'different';
    const scaled = p
      .slice(1)
      .map((item, index) => compareExpressions(product(item, q[0]!), product(q[index + 1]!, p[0]!), this.#budget));
    return every(scaled);
  }

  /** A union and another union, interval, set or list of alternative inequalities. Overlaps are not merged, so nothing is refuted. */
  #unions(a: Answer, b: Answer): Verdict {
    const [p, q] = [unionItems(a), unionItems(b)];
    return p && q ? onlyEqual(this.#unordered(p, q)) : 'undecided';
  }

  /** Every item of one side has an equal on the other: its own in lists, any in sets, where repetitions do not count. */
  #unordered(a: readonly Answer[], b: readonly Answer[], isSet = false): Verdict {
    if (isSet) return every([this.#covered(a, b, false), this.#covered(b, a, false)]);
    return a.length === b.length ? this.#covered(a, b, true) : 'different';
  }

  #covered(a: readonly Answer[], b: readonly Answer[], once: boolean): Verdict {
    const left = new Set(b);
    let open = false;
    for (const [index, x] of a.entries()) {
      // Most lists come in the same order, so the item in the same place is tried first.
      const candidates = [b[index], ...left].filter((y) => y !== undefined && left.has(y));
      const match = candidates.find((y) => {
        const verdict = this.compare(x, y!);
        open ||= verdict === 'undecided';
        return verdict === 'equal';
      });
      if (!match) return open ? 'undecided' : 'different';
      if (once) left.delete(match);
    }
    return 'equal';
  }
}

function every(verdicts: readonly Verdict[]): Verdict {
  if (verdicts.includes('different')) return 'different';
  return verdicts.includes('undecided') ? 'undecided' : 'equal';
}

function any(verdicts: readonly Verdict[]): Verdict {
  if (verdicts.includes('equal')) return 'equal';
  return verdicts.includes('undecided') ? 'undecided' : 'different';
}

function onlyEqual(verdict: Verdict): Verdict {
  return verdict === 'equal' ? 'equal' : 'undecided';
}

function compareTexts(a: Answer, b: Answer): Verdict {
  if (a.kind === 'choice' && a.content) return onlyEqual(compareTexts(a.content, b));
  if (b.kind === 'choice' && b.content) return onlyEqual(compareTexts(a, b.content));
  if (a.kind === 'text' && b.kind === 'text') {
    if (a.text === b.text && a.text !== '') return 'equal';
    return a.prose && b.prose ? 'different' : 'undecided';
  }
  // Words are no number; mathematics that could not be read may be anything.
  return [a, b].every((answer) => answer.kind !== 'text' || answer.prose) ? 'different' : 'undecided';
}

function letterOf(answer: Answer): string | null {
  if (answer.kind !== 'value' || answer.unit) return null;
  const { value: expression } = answer;
  return expression.kind === 'symbol' && /^[A-Ha-h]$/.test(expression.name) ? expression.name.toUpperCase() : null;
}

function plainValue(answer: Answer): Expression | null {
  return answer.kind === 'value' && !answer.unit ? answer.value : null;
}

/** The values behind a name; for a list, behind the one name of its items. Null when the items have several names. */
function withoutName(answer: Answer): { name: string | null; descriptive: boolean; values: readonly Answer[] } | null {
  if (answer.kind === 'named') return { name: answer.name, descriptive: answer.descriptive, values: answer.values };
  if (answer.kind !== 'list') return { name: null, descriptive: false, values: [answer] };
  const named = answer.items.filter((item) => item.kind === 'named');
  const name = named[0]?.name ?? null;
  if (named.some((item) => item.name !== name || item.values.length > 1)) return null;
  const items = answer.items.map((item) => (item.kind === 'named' ? item.values[0]! : item));
  return { name, descriptive: named.some((item) => item.descriptive), values: [{ ...answer, items }] };
}

function asRelation(answer: Named | Relation): Relation | null {
  if (answer.kind === 'relation') return answer;
  const values = answer.values.map(plainValue);
  if (!values.every((item) => item !== null)) return null;
  return { kind: 'relation', parts: [symbol(answer.name), ...values], operators: values.map(() => '=') };
}

/** `x > 1 and x < 5`: what several conditions together leave is not worked out. */
function hasConditions(answer: Answer): boolean {
  return answer.kind === 'list' && answer.items.some((item) => item.kind === 'relation');
}

function itemsOf(answer: Answer): readonly Answer[] {
  if (answer.kind !== 'list' && answer.kind !== 'set') return [answer];
  // The two values of \pm stand in a list of their own.
  return answer.items.flatMap((item) => (item.kind === 'list' ? item.items : [item]));
}

function matrixRows(sequence: Answer): readonly (readonly Answer[])[] | null {
  if (sequence.kind !== 'sequence') return null;
  const rows = sequence.items.map((item) => (item.kind === 'sequence' ? item.items : null));
  return rows.every((row) => row !== null) ? rows : null;
}

function rowsOf(answer: Answer): readonly (readonly Answer[])[] | null {
  return answer.kind === 'matrix' ? answer.rows : matrixRows(answer);
}

function ratioItems(answer: Answer): readonly Expression[] | null {
  if (answer.kind === 'ratio') return answer.items;
  const plain = plainValue(answer);
  return plain ? [plain, number(1)] : null;
}

function unionItems(answer: Answer): readonly Answer[] | null {
  if (answer.kind === 'union') return answer.items;
  if (answer.kind === 'sequence' || answer.kind === 'set') return [answer];
  if (answer.kind !== 'list' || !answer.alternatives) return null;
  const intervals = answer.items.map((item) => (item.kind === 'relation' ? toInterval(item) : null));
  const name = intervals[0]?.name;
  return intervals.every((item) => item !== null && item.name === name)
    ? intervals.map((item) => item!.interval)
    : null;
}

/** `x > 1`, `1 < x \le 5` and `5 \ge x > 1` as intervals of the named variable. */
function toInterval(relation: Relation): { name: string; interval: Sequence } | null {
  const { parts, operators } = relation;
  if (operators.some((operator) => operator === '=' || operator === '!=')) return null;
  const falling = operators.every((operator) => operator.startsWith('>'));
  if (!falling && !operators.every((operator) => operator.startsWith('<'))) return null;
  const rising = falling ? [...parts].reverse() : parts;
  const bounds = (falling ? [...operators].reverse() : operators).map((operator) => operator.endsWith('='));
  const at = rising.findIndex((part) => part.kind === 'symbol');
  const variable = rising[at];
  const others = rising.filter((_, index) => index !== at);
  if (variable?.kind !== 'symbol' || others.some((part) => symbolsOf(part).size > 0)) return null;
  if (parts.length > 3 || (parts.length === 3 && at !== 1)) return null;
  const low = rising[at - 1];
  const high = rising[at + 1];
  const infinity = constant('infinity');
  return {
    name: variable.name,
    interval: {
      kind: 'sequence',
      open: low && bounds[at - 1] ? '[' : '(',
      close: high && bounds[at] ? ']' : ')',
      items: [value(low ?? negative(infinity)), value(high ?? infinity)],
    },
  };
}
