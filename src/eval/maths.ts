import { parseJsonl } from '../data/jsonl.js';
import { FileFormatError } from '../errors.js';
import { type AnswerPartOptions, answerPart } from '../rewards/answer-part.js';
import { gradeAnswer, type Verdict } from '../rewards/maths.js';
import { describeIntervals, type Estimate, wilson } from './statistics.js';

export interface MathsItem {
  id: string;
  question: string;
  reference: string;
}

export interface MathsFields {
  question: string;
  answer: string;
}

/** Reads questions and reference answers; `fields` names where they stand. */
export function parseMaths(text: string, file: string, fields: MathsFields): MathsItem[] {
  const items = parseJsonl(text, file).map(({ line, value }) => {
    const row = (value ?? {}) as Record<string, unknown>;
    const question = row[fields.question];
    const reference = row[fields.answer];
    if (typeof question !== 'string' || question === '') {
      throw new FileFormatError(file, `${fields.question} must be a text; the row has ${Object.keys(row)}`, line);
    }
    if (typeof reference !== 'number' && (typeof reference !== 'string' || reference.trim() === '')) {
      throw new FileFormatError(
        file,
        `${fields.answer} must be a text or a number; the row has ${Object.keys(row)}`,
        line,
      );
    }
    return { id: `line ${line}`, question, reference: String(reference) };
  });
  if (items.length === 0) throw new FileFormatError(file, 'no rows');
  return items;
}

export interface MathsVerdict {
  item: MathsItem;
  missing: boolean;
  /** What was taken for the answer; null when there is none. */
  answer: string | null;
  verdict: Verdict;
}

/** Grades responses as the maths reward does. An item without a response, or without an answer, is different. */
export function gradeResponses(
  items: readonly MathsItem[],
  responses: ReadonlyMap<string, { response: string }>,
  part: AnswerPartOptions = {},
): MathsVerdict[] {
  return items.map((item) => {
    const response = responses.get(item.id)?.response;
    const text = response === undefined ? undefined : answerPart(response, part);
    const grade =
      text === undefined ? { verdict: 'different' as const, answer: null } : gradeAnswer(text, item.reference);
    return { item, missing: response === undefined, ...grade };
  });
}

export interface MathsSummary {
  /** Right answers among all questions: what is undecided or missing is not right. */
  accuracy: Estimate;
  correct: number;
  wrong: number;
  /** The grader could not tell. */
  undecided: number;
  /** Of the wrong ones: no answer was found in the response. */
  withoutAnswer: number;
  missing: number;
  intervals: Record<string, string>;
}

export function summariseMaths(verdicts: readonly MathsVerdict[]): MathsSummary {
  const count = (test: (verdict: MathsVerdict) => boolean) => verdicts.filter(test).length;
  const correct = count(({ verdict }) => verdict === 'equal');
  const missing = count((verdict) => verdict.missing);
  return {
    accuracy: wilson(correct, verdicts.length),
    correct,
    wrong: count(({ verdict }) => verdict === 'different') - missing,
    undecided: count(({ verdict }) => verdict === 'undecided'),
    withoutAnswer: count(({ answer, missing }) => answer === null && !missing),
    missing,
    intervals: describeIntervals('question', null),
  };
}
