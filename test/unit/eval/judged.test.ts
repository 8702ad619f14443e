import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { askJudge } from '../../../src/eval/judge.js';
import {
  type JudgedFields,
  judgedConfigSchema,
  parseJudged,
  summariseJudged,
  withDependencies,
} from '../../../src/eval/judged.js';
import { endpointJudge } from '../../../src/rewards/judge.js';
import { FakeServer } from './fake-server.js';

const fieldsOf = (fields: object): JudgedFields =>
  judgedConfigSchema.parse({ data: 'd', fields, judge: { url: 'u', model: 'm' } }).fields;

const infoBench = fieldsOf({
  id: 'id',
  prompt: '{instruction}\n\n{input}',
  questions: 'decomposed_questions',
  category: 'subset',
});
const complexBench = fieldsOf({
  id: 'main_id',
  prompt: 'instruction_en',
  questions: 'scoring_questions',
  question: 'question_en',
  questionId: 'point_id',
  dependsOn: 'dep',
  category: 'category',
});

describe('parseJudged', () => {
  it('takes the descriptions of the documentation', () => {
    const page = readFileSync(new URL('../../../docs/evaluation.md', import.meta.url), 'utf8');
    const examples = [...page.matchAll(/```yaml\n(.*?)```/gs)].map(([, text]) =>
      judgedConfigSchema.parse(parse(text!)),
    );
    expect(examples.map(({ fields }) => fields)).toEqual([infoBench, complexBench]);
  });

  it('reads data like InfoBench', () => {
    const row = {
      id: 'x1',
      input: '',
      instruction: 'Write a poem.',
      decomposed_questions: ['A poem?', 'Good?'],
      subset: 'Easy',
    };
    expect(parseJudged(JSON.stringify(row), 'f', infoBench)).toEqual([
      {
        id: 'x1',
        prompt: 'Write a poem.',
        questions: [
          { text: 'A poem?', dependsOn: [] },
          { text: 'Good?', dependsOn: [] },
        ],
        categories: ['Easy'],
      },
    ]);
  });

  const complex = {
    main_id: 7,
    instruction_en: 'If A, do B.',
    category: ['Selection_1', 'And'],
    scoring_questions: [
      { point_id: 3, question_en: 'A?', dep: [] },
      { point_id: 4, question_en: 'B?', dep: [3] },
    ],
  };

  it('reads a list with dependencies like ComplexBench', () => {
    const [item] = parseJudged(JSON.stringify([complex], null, 2), 'f', complexBench);
    expect(item).toEqual({
      id: '7',
      prompt: 'If A, do B.',
      questions: [
        { text: 'A?', dependsOn: [] },
        { text: 'B?', dependsOn: [0] },
      ],
      categories: ['Selection_1', 'And'],
    });
  });

  it.each<[object, RegExp]>([
    [{ instruction_en: undefined }, /f: item 0: instruction_en must be a text; the row has main_id/],
    [{ instruction_en: ' ' }, /item 0: the prompt \(instruction_en\) is blank/],
    [{ main_id: null }, /item 0: main_id must be a text or a number/],
    [{ scoring_questions: [] }, /item 0: scoring_questions must be a list of at least one question/],
    [{ scoring_questions: [{ point_id: 1 }] }, /item 0: question 0: question_en must be a text/],
    [{ scoring_questions: [{ question_en: 'Q', point_id: 1, dep: [2] }] }, /question 0: dep names question 2, which/],
    [{ scoring_questions: [{ question_en: 'Q', point_id: 1, dep: [1] }] }, /question 0 depends on itself/],
    [{ scoring_questions: [{ question_en: 'Q', point_id: 1, dep: 1 }] }, /question 0: dep must be a list/],
  ])('refuses %j', (change, expected) => {
    expect(() => parseJudged(JSON.stringify([{ ...complex, ...change }]), 'f', complexBench)).toThrow(expected);
  });

  it('refuses ids that occur twice, with the line', () => {
    const row = JSON.stringify({ id: 1, instruction: 'a', input: '', decomposed_questions: ['q'] });
    expect(() => parseJudged(`${row}\n${row}`, 'f', infoBench)).toThrow('f:2: the id 1 occurs twice');
    expect(() => parseJudged('[{"a":', 'f', infoBench)).toThrow(/f: not JSON/);
    expect(() => parseJudged('[]', 'f', infoBench)).toThrow('f: no rows');
  });
});

const questions = (...dependsOn: number[][]) => dependsOn.map((needs, i) => ({ text: `q${i}`, dependsOn: needs }));

describe('withDependencies', () => {
  it.each([
    ['a met question needs what it depends on', [[], [0]], [false, true], [false, false]],
    ['over several steps', [[], [0], [1]], [false, true, true], [false, false, false]],
    ['forward as well', [[1], []], [true, false], [false, false]],
    ['no verdict below leaves it open', [[], [0]], [null, true], [null, null]],
    ['a no decides whatever is open', [[], [0], []], [null, false, true], [null, false, true]],
    ['all met', [[], [0], [0, 1]], [true, true, true], [true, true, true]],
  ])('%s', (_, needs, said, expected) => {
    expect(withDependencies(questions(...needs), said)).toEqual(expected);
  });
});

describe('summariseJudged', () => {
  const result = (verdicts: (boolean | null)[], categories: string[], missing = false) => ({
    item: { id: 'x', prompt: 'p', questions: [], categories },
    answer: 'a',
    missing,
    verdicts,
  });

  it('counts what has no verdict apart, in no share', () => {
    const summary = summariseJudged([
      result([true, true], ['a']),
      result([true, null], ['a', 'b']),
      result([false, null], ['b']),
      result([false], [], true),
    ]);
    expect(summary).toMatchObject({ items: 4, questions: 7, missing: 1, unanswered: 2 });
    expect(summary.questionLevel).toMatchObject({ hits: 3, count: 5 });
    // The second item can still be either.
    expect(summary.itemLevel).toMatchObject({ hits: 1, count: 3 });
    expect(summary.byCategory.a).toMatchObject({ hits: 3, count: 3 });
    expect(summary.byCategory.b).toMatchObject({ hits: 1, count: 2 });
  });
});

describe('askJudge', () => {
  it('shows the whole conversation and asks each question alone', async () => {
    const server = await FakeServer.start(({ messages }) => {
      const question = ['Blue?', 'Long?', 'Odd?'].find((text) => messages[1]!.content.includes(text))!;
      return { content: { 'Blue?': 'YES', 'Long?': 'NO', 'Odd?': 'Hm.' }[question] };
    });
    try {
      const judge = askJudge(endpointJudge({ url: server.url, model: 'judge', maxReplyTokens: 9 }), 2);
      const conversation = [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', content: 'First turn' },
        { role: 'assistant', content: 'First reply' },
        { role: 'user', content: 'The sky?' },
        { role: 'assistant', content: 'It is blue.' },
      ];
      const { signal } = new AbortController();
      expect(await judge(conversation, ['Blue?', 'Long?', 'Odd?'], signal)).toEqual([true, false, null]);
      expect(server.requests).toHaveLength(3);
      expect(server.mostAtOnce).toBeLessThanOrEqual(2);
      for (const { body } of server.requests) {
        for (const { content } of conversation) expect(body.messages[1]!.content).toContain(content);
        expect(body).toMatchObject({ temperature: 0, max_tokens: 9 });
      }
    } finally {
      await server.close();
    }
  });
});
