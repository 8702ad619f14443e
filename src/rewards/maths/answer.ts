import type { Expression } from './expression.js';
import type { Unit } from './units.js';

/** A parsed answer. */
export type Answer =
  /** A number or expression, possibly with a unit. */
  | { readonly kind: 'value'; readonly value: Expression; readonly unit: Unit | null }
  /** Values that hold together or as alternatives, in any order: `1, 2`, `x = 1 \text{ or } x = 2`, `\pm 3`. */
  | { readonly kind: 'list'; readonly items: readonly Answer[]; readonly alternatives: boolean }
  | { readonly kind: 'set'; readonly items: readonly Answer[] }
  /** A tuple, vector or interval; open and closed brackets are told apart. */
  | Sequence
  | { readonly kind: 'union'; readonly items: readonly Answer[] }
  | { readonly kind: 'set-difference'; readonly from: Answer; readonly without: Answer }
  | { readonly kind: 'ratio'; readonly items: readonly Expression[] }
  | { readonly kind: 'matrix'; readonly rows: readonly (readonly Answer[])[] }
  /** `name = value`, `f(x) = value` or a chain `name = value = value`. */
  | Named
  /** An equation or inequality, or a chain of them. */
  | Relation
  /** `exact ≈ approximate`. */
  | { readonly kind: 'approximation'; readonly exact: Answer; readonly approximate: Answer }
  /** A choice of a multiple-choice question, with the text of the choice where it is given: `(B) 42`. */
  | { readonly kind: 'choice'; readonly letter: string; readonly content: Answer | null }
  /** `1011_2`: a number written in another base. */
  | { readonly kind: 'numeral'; readonly value: Expression; readonly digits: string }
  | Text;

export interface Sequence {
  readonly kind: 'sequence';
  readonly open: '(' | '[';
  readonly close: ')' | ']';
  readonly items: readonly Answer[];
}

export interface Named {
  readonly kind: 'named';
  readonly name: string;
  /** True for `f(x)` and for words (`Area`): the name then says what is meant and is no unknown of an equation. */
  readonly descriptive: boolean;
  readonly values: readonly Answer[];
}

export interface Relation {
  readonly kind: 'relation';
  readonly parts: readonly Expression[];
  readonly operators: readonly RelationOperator[];
}

export type RelationOperator = '=' | '!=' | '<' | '>' | '<=' | '>=';

interface Text {
  readonly kind: 'text';
  /** Lower case, without punctuation at the ends. */
  readonly text: string;
  /** True for words only. Otherwise this is mathematics that could not be read, and a difference proves nothing. */
  readonly prose: boolean;
}

export function value(expression: Expression, unit: Unit | null = null): Answer {
  return { kind: 'value', value: expression, unit };
}
