import { type CompareOptions, compareAnswers } from './maths/compare.js';
import type { Verdict } from './maths/compare-expressions.js';
import { extractAnswer } from './maths/extract.js';

export { type CompareOptions, compareAnswers, extractAnswer, type Verdict };

export interface MathsGrade {
  readonly verdict: Verdict;
  /** What was taken for the answer; null when the reply has none, and then the verdict is 'different'. */
  readonly answer: string | null;
}

/**
 * Grades a reply against a reference answer. The reference is the bare answer; of a worked solution, such as GSM8K's, what stands in its
 * last `\boxed{…}` or after `####` is used. A decimal reference of three or more digits also accepts the exact value that it rounds
 * (`0.333` for 1/3), because a label cannot give more; an exact reference accepts no rounding.
 */
export function gradeAnswer(text: string, reference: string): MathsGrade {
  const answer = extractAnswer(text);
  if (answer === null) return { verdict: 'different', answer };
  const label = /\\f?box(?:ed)?\b|####/.test(reference) ? (extractAnswer(reference) ?? reference) : reference;
  return { verdict: compareAnswers(answer, label, { allowRoundedReference: true }), answer };
}

/** True when the reply's answer equals the reference. What cannot be decided does not match; `gradeAnswer` tells it apart. */
export function answersMatch(text: string, reference: string): boolean {
  return gradeAnswer(text, reference).verdict === 'equal';
}
