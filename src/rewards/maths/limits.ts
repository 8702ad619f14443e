/**
 * What one comparison may cost. Answers come from a language model, so any of them may be absurd (`9^{9^9}`, ten thousand brackets);
 * whatever passes a limit is left undecided instead of being worked on.
 */
export const limits = {
  /** Characters in one answer. Real answers are far shorter; longer text is compared by identity only. */
  answerLength: 2000,
  /** Brackets, exponents and fractions inside each other. */
  nesting: 60,
  /** Items of a list, a set or a matrix. */
  items: 64,
  /** Bits of a numerator or denominator. Holds 10^4000. */
  bits: 1 << 14,
  /** Exponent of a sum that is multiplied out. */
  expandedExponent: 64,
  /** Elementary steps (such as the product of two short terms) in a whole comparison: a few tenths of a second. */
  work: 300_000,
} as const;

/** The input cannot be read as mathematics, or has no value (division by zero). Never leaves `src/rewards/maths`. */
export class UnreadableError extends Error {}

/** The comparison has become too expensive. Never leaves `src/rewards/maths`. */
export class LimitError extends Error {}

/** Counts the work of one comparison and stops it at `limits.work`. */
export class Budget {
  #left: number;
  readonly #whole: Budget | null;

  constructor(steps: number = limits.work, whole: Budget | null = null) {
    this.#left = steps;
    this.#whole = whole;
  }

  /** A budget for one part of the work, taken out of this one as it is spent. */
  part(steps: number): Budget {
    return new Budget(steps, this);
  }

  spend(steps: number): void {
    this.#left -= steps;
    if (this.#left < 0) throw new LimitError('comparison takes too much work');
    this.#whole?.spend(steps);
  }
}
