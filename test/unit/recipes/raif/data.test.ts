import { describe, expect, it } from 'vitest';
import { FileFormatError } from '../../../../src/errors.js';
import { findOverlaps } from '../../../../src/recipes/raif/contamination.js';
import { parseRaifDemonstrations, parseRaifPrompts } from '../../../../src/recipes/raif/data.js';
import { dropLongDemonstrations, dropLongPrompts, mixRows } from '../../../../src/recipes/raif/select-rows.js';
import { renderPrompt } from '../../../../src/recipes/raif/templates.js';
import { Tokenizer } from '../../../../src/text/tokenizer.js';

const input = renderPrompt('qwen', { user: 'Do it.' });
const lines = (...rows: object[]) => rows.map((row) => JSON.stringify(row)).join('\n');
const maths = (target: string) => ({ input, target });
const labelled = (task: string, target: object) => ({ input, task, target: JSON.stringify(target) });
const rule = { instruction_id_list: ['punctuation:no_comma'], kwargs: [{}] };

describe('parseRaifPrompts', () => {
  it('reads the three kinds of rows', () => {
    const { records } = parseRaifPrompts(
      lines(
        maths('42'),
        labelled('ifeval', { ...rule, 'follow_score_qwen2.5-7B-Instruct': 1 }),
        labelled('complex_woFormat', { scoring_questions: ['Short?', 'Kind?'], scoring_sum_other: 2 }),
      ),
      'rows.jsonl',
    );
    const common = { prompt: `${input}<think>\n`, addSpecialTokens: false, template: 'qwen' };
    expect(records).toMatchObject([
      { ...common, kind: 'maths', answer: '42', contrast: false, freeForm: false, origin: 'rows.jsonl:1' },
      { ...common, kind: 'ifeval', ...rule, reference_met: 1, contrast: true, freeForm: false },
      { ...common, kind: 'complex', scoring_questions: ['Short?', 'Kind?'], reference_met: 0, freeForm: true },
    ]);
    const own = parseRaifPrompts(lines(labelled('complex', { scoring_questions: ['?'], scoring_sum_other: 1 })), 'f', {
      referenceModel: 'other',
    });
    expect(own.records[0]!.reference_met).toBe(1);
  });

  it.each([
    [{ target: '1' }, /input must be a text/],
    [{ input: 'plain', target: '1' }, /none of the five templates/],
    [{ input, target: ' ' }, /target must be a text/],
    [maths('\\frac{'), /not even by repeating it/],
    [{ input, target: '1', task: 'kk_3' }, /task must be default/],
    [{ input, target: '{', task: 'ifeval' }, /target is not JSON/],
    [labelled('ifeval', { instruction_id_list: [], kwargs: [] }), /no instructions/],
    [labelled('ifeval', { instruction_id_list: ['no:such'], kwargs: [{}] }), /no:such/],
    [
      labelled('ifeval', { instruction_id_list: ['length_constraints:number_words'], kwargs: [{}] }),
      /relation|num_words/,
    ],
    [
      labelled('ifeval', {
        instruction_id_list: ['length_constraints:number_words'],
        kwargs: [{ num_words: 3, relation: 'about' }],
      }),
      /relation/,
    ],
    [labelled('ifeval', { ...rule, 'follow_score_qwen2.5-7B-Instruct': 2 }), /follow_score.*from 0 to 1/],
    [labelled('complex', { scoring_questions: [] }), /scoring_questions/],
    [labelled('complex', { scoring_questions: ['a', ' '] }), /scoring_questions/],
    [labelled('complex', {}), /scoring_questions/],
  ])('refuses %j with file and line', (row, problem) => {
    const text = lines(maths('1'), row);
    expect(() => parseRaifPrompts(text, 'rows.jsonl')).toThrow(problem);
    try {
      parseRaifPrompts(text, 'rows.jsonl');
    } catch (error) {
      expect(error).toBeInstanceOf(FileFormatError);
      expect(error).toMatchObject({ file: 'rows.jsonl', line: 2 });
    }
    const { records, invalid } = parseRaifPrompts(text, 'rows.jsonl', { skipInvalid: true });
    expect(records).toHaveLength(1);
    expect(invalid).toEqual([expect.stringMatching(/^rows.jsonl:2: /)]);
  });

  it('refuses a file without a row that can be used', () => {
    expect(() => parseRaifPrompts('{"input": 1}', 'f', { skipInvalid: true })).toThrow(/no rows that can be used/);
  });
});

it('reads expert replies, without the newlines at their end', () => {
  const { records } = parseRaifDemonstrations(lines({ question: 'Q', answer: 'A\n\n' }), 'f');
  expect(records).toEqual([{ prompt: 'Q', completion: 'A', addSpecialTokens: false, origin: 'f:1' }]);
  expect(() => parseRaifDemonstrations(lines({ question: 'Q', answer: '\n' }), 'f')).toThrow(/f:1: answer/);
});

describe('mixRows', () => {
  const { records } = parseRaifPrompts(
    lines(
      ...Array.from({ length: 20 }, (_, i) => maths(String(i))),
      ...Array.from({ length: 50 }, () => labelled('ifeval', rule)),
    ),
    'rows.jsonl',
  );
  const counts = (mix: Parameters<typeof mixRows>[1], seed = 1) => {
    const mixed = mixRows(records, mix, seed);
    const count = mixed.filter(({ kind }) => kind === 'maths').length;
    return [count, mixed.length - count];
  };

  it('takes as many rows as fit the ratio', () => {
    expect(counts({ maths: 1, instructions: 1 })).toEqual([20, 20]);
    expect(counts({ maths: 0.2, instructions: 1 })).toEqual([10, 50]);
    expect(counts({ maths: 0, instructions: 1 })).toEqual([0, 50]);
    expect(counts(null)).toEqual([20, 50]);
  });

  it('is a function of the seed', () => {
    const origins = (seed: number) => mixRows(records, { maths: 1, instructions: 1 }, seed).map(({ origin }) => origin);
    expect(origins(1)).toEqual(origins(1));
    expect(origins(1).toSorted()).not.toEqual(origins(2).toSorted());
    expect(new Set(origins(1)).size).toBe(40);
  });

  it('refuses ratios that cannot be met', () => {
    expect(() => mixRows(records.slice(20), { maths: 1, instructions: 1 }, 1)).toThrow(/mix.maths/);
    expect(() => mixRows(records, { maths: -1, instructions: 1 }, 1)).toThrow(/mix.maths/);
    expect(() => mixRows(records, { maths: 0, instructions: 0 }, 1)).toThrow(/mix/);
  });
});

it('drops what is too long, and says which', () => {
  const tokenizer = Tokenizer.fromCharacters('abc');
  const rows = [
    { prompt: 'abc', origin: 'f:1' },
    { prompt: 'ab', origin: 'f:2' },
  ];
  expect(dropLongPrompts(rows, tokenizer, 2)).toEqual({ kept: [rows[1]], dropped: ['f:1: 3 tokens, more than 2'] });
  expect(dropLongPrompts(rows, tokenizer, null).kept).toEqual(rows);
  const demonstrations = rows.map((row) => ({ ...row, completion: 'a' }));
  // With the end token.
  expect(dropLongDemonstrations(demonstrations, tokenizer, 4).dropped).toEqual(['f:1: 5 tokens, more than 4']);
});

describe('findOverlaps', () => {
  it('finds words in a row whatever their case and punctuation', () => {
    const benchmark = ['unrelated', 'Write a poem, about the sea: now!'];
    const texts = ['please write a poem about the sea', 'write a poem about a tree'];
    expect(findOverlaps(texts, benchmark, 5)).toEqual([{ text: 0, benchmark: 1, words: 'write a poem about the' }]);
    expect(findOverlaps(texts, benchmark, 4)).toHaveLength(2);
    expect(findOverlaps(texts, benchmark)).toEqual([]);
  });

  it('takes Chinese characters one by one', () => {
    expect(findOverlaps(['请写一首关于大海的诗abc'], ['写一首，关于大海的诗'], 9)).toMatchObject([{ benchmark: 0 }]);
    expect(findOverlaps(['请写一首诗'], ['写两首诗'], 3)).toEqual([]);
  });
});
