import { describe, expect, it } from 'vitest';
import { gradeResponses, parseMaths, summariseMaths } from '../../../src/eval/maths.js';

const fields = { question: 'question', answer: 'answer' };
const rows = [
  { question: 'q1', answer: 'So it is 9 * 2 = 18.\n#### 18' },
  { question: 'q2', answer: 72 },
  { question: 'q3', answer: '\\frac{1}{2}' },
  { question: 'q4', answer: '5' },
  { question: 'q5', answer: '\\sin(1)^{2}+\\cos(1)^{2}' },
];
const items = parseMaths(rows.map((row) => JSON.stringify(row)).join('\n'), 'data', fields);

describe('maths', () => {
  it('grades responses as the reward does, and counts', () => {
    const responses = new Map([
      ['line 1', { response: 'The answer is \\boxed{18}.' }],
      ['line 2', { response: 'It is 71.' }],
      ['line 3', { response: '#### 0.5' }],
      ['line 4', { response: ' ' }],
    ]);
    const verdicts = gradeResponses(items, responses);
    expect(verdicts.map(({ verdict, answer, missing }) => [verdict, answer, missing])).toEqual([
      ['equal', '18', false],
      ['different', '71', false],
      ['equal', '0.5', false],
      ['different', null, false],
      ['different', null, true],
    ]);
    const { accuracy, intervals: _, ...counts } = summariseMaths(verdicts);
    expect(counts).toEqual({ correct: 2, wrong: 2, undecided: 0, withoutAnswer: 1, missing: 1 });
    expect(accuracy).toMatchObject({ value: 0.4, hits: 2, count: 5, method: 'wilson' });
  });

  it('counts undecided answers apart, and not as right', () => {
    const verdict = { item: items[0]!, missing: false, answer: 'x' };
    const summary = summariseMaths([
      { ...verdict, verdict: 'equal' },
      { ...verdict, verdict: 'undecided' },
    ]);
    expect(summary).toMatchObject({ correct: 1, wrong: 0, undecided: 1, accuracy: { value: 0.5 } });
  });

  it('looks in the answer part only', () => {
    const responses = new Map([['line 1', { response: '<think>\\boxed{18}</think>It is 17' }]]);
    expect(gradeResponses(items, responses, { afterThink: true })[0]).toMatchObject({
      answer: '17',
      verdict: 'different',
    });
  });

  it.each([
    [{ question: 'q' }, /data:1: answer must be a text or a number; the row has question/],
    [{ question: '', answer: 1 }, /data:1: question must be a text/],
    [null, /data:1: question must be a text/],
  ])('refuses %j', (row, expected) => {
    expect(() => parseMaths(JSON.stringify(row), 'data', fields)).toThrow(expected);
  });
});
