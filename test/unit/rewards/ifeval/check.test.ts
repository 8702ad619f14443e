import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GrpoError } from '../../../../src/errors.js';
import {
  checkInstructions,
  InstructionError,
  looseVariants,
  summariseVerdicts,
  validateInstructions,
} from '../../../../src/rewards/ifeval/index.js';

describe('validateInstructions', () => {
  const words = 'length_constraints:number_words';
  it.each([
    ['an id that does not exist', 'length:words', {}, undefined, /length:words/],
    ['a missing parameter', words, { relation: 'at least' }, 'num_words', /integer >= 0 for num_words of .*undefined/],
    ['a null parameter', words, { relation: 'at least', num_words: null }, 'num_words', /received undefined/],
    ['a negative count', words, { relation: 'at least', num_words: -1 }, 'num_words', /received -1/],
    ['a count that is no integer', words, { relation: 'at least', num_words: 1.5 }, 'num_words', /received 1.5/],
    ['a count that is text', words, { relation: 'at least', num_words: '3' }, 'num_words', /received "3"/],
    ['a missing relation', words, { num_words: 3 }, 'relation', /less than, at least, 少于, 至少/],
    ['an unknown relation', words, { relation: 'at most', num_words: 3 }, 'relation', /"at most"/],
    [
      'an unknown parameter',
      words,
      { relation: 'at least', num_words: 3, word: 3 },
      'word',
      /only relation, num_words/,
    ],
    ['a parameter where there is none', 'punctuation:no_comma', { a: 1 }, 'a', /no parameters/],
    ['a string for a list', 'keywords:existence', { keywords: 'cat' }, 'keywords', /list of strings/],
    ['an empty list', 'keywords:forbidden_words', { forbidden_words: [] }, 'forbidden_words', /list of strings/],
    [
      'a blank keyword',
      'keywords:frequency',
      { keyword: ' ', frequency: 1, relation: 'at least' },
      'keyword',
      /not blank/,
    ],
    [
      'two letters',
      'keywords:letter_frequency',
      { letter: 'ab', let_frequency: 1, let_relation: 'at least' },
      'letter',
      /single character/,
    ],
    ['a language without its region', 'language:response_language', { language: 'zh' }, 'language', /zh-cn, zh-tw/],
    [
      'a paragraph after the last',
      'length_constraints:nth_paragraph_first_word',
      { num_paragraphs: 2, nth_paragraph: 3, first_word: 'a' },
      'nth_paragraph',
      /from 1 to 2/,
    ],
    ['kwargs that are a list', words, [], 'kwargs', /an object/],
  ])('rejects %s', (_, id, kwargs, parameter, message) => {
    let error: unknown;
    try {
      validateInstructions([id], [kwargs]);
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(InstructionError);
    expect(error).toBeInstanceOf(GrpoError);
    expect(error).toMatchObject({ code: 'GRPO_INVALID_ARGUMENT', instructionId: id, parameter });
    expect((error as Error).message).toMatch(message);
  });

  it('rejects lists of different length', () => {
    expect(() => validateInstructions(['punctuation:no_comma'], [])).toThrow(/kwargs/);
    expect(() => validateInstructions('punctuation:no_comma' as never, [])).toThrow(/instruction_id_list/);
  });

  it('takes null for a parameter that does not apply', () => {
    expect(validateInstructions(['punctuation:no_comma'], [{ num_words: null, relation: null }])).toHaveLength(1);
  });
});

describe('checkInstructions', () => {
  const instructions = validateInstructions(
    ['punctuation:no_comma', 'startend:quotation', 'length_constraints:number_words'],
    [{}, {}, { num_words: 1, relation: 'at least' }],
  );

  it('gives one verdict an instruction, in order', () => {
    expect(checkInstructions(instructions, 'prompt', '"a, b"')).toEqual([false, true, true]);
    expect(checkInstructions([], 'prompt', 'anything')).toEqual([]);
  });

  it('fails everything on a blank response', () => {
    expect(checkInstructions(instructions, '', ' \n\x1c')).toEqual([false, false, false]);
    expect(checkInstructions(instructions, '', '', { loose: true })).toEqual([false, false, false]);
  });

  it('passes, loosely, what a cut or the removal of asterisks would make pass', () => {
    const loose = (response: string) => checkInstructions(instructions, '', response, { loose: true })[1];
    expect(loose('Sure!\n"a"')).toBe(true);
    expect(loose('"a"\nBye!')).toBe(true);
    expect(loose('Sure!\n"a"\nBye!')).toBe(true);
    expect(loose('*"a"*')).toBe(true);
    expect(loose('Sure!\n**"a"**\nBye!')).toBe(true);
    expect(loose('Sure!\nReally!\n"a"')).toBe(false);
    expect(checkInstructions(instructions, '', 'Sure!\n"a"')[1]).toBe(false);
  });

  it('does not join the variants: each instruction picks its own', () => {
    const two = validateInstructions(['punctuation:no_comma', 'keywords:existence'], [{}, { keywords: ['Sure'] }]);
    expect(checkInstructions(two, '', 'Sure, yes\nno', { loose: true })).toEqual([true, true]);
  });
});

describe('looseVariants', () => {
  it('are the eight of the original', () => {
    expect(looseVariants('*a*\n b\nc* ')).toEqual([
      '*a*\n b\nc* ',
      'b\nc*',
      '*a*\n b',
      'b',
      'a\n b\nc ',
      'b\nc',
      'a\n b',
      'b',
    ]);
  });

  it('never fail loosely what passes strictly, and never change a verdict between calls', () => {
    const ids = [
      'punctuation:no_comma',
      'detectable_format:title',
      'detectable_format:json_format',
      'combination:two_responses',
    ];
    const checked = validateInstructions([...ids, 'language:response_language'], [{}, {}, {}, {}, { language: 'en' }]);
    const text = fc.string({
      unit: fc.constantFrom('a', 'É', '猫', '*', ',', '<', '>', '\n', ' ', '"', '{', '}', '.'),
    });
    fc.assert(
      fc.property(text, (response) => {
        const strict = checkInstructions(checked, '', response);
        const loose = checkInstructions(checked, '', response, { loose: true });
        strict.forEach((met, i) => {
          if (met) expect(loose[i]).toBe(true);
        });
        expect(checkInstructions(checked, '', response)).toEqual(strict);
      }),
    );
  });
});

describe('degenerate responses', () => {
  it.each(['\n', ' ', '* ', '*', '[', '<<', '"', 'a', '. ', '-\n', '<a ', '.', '猫', '1. '])(
    'of %j alone are checked fast',
    (piece) => {
      const ids = ['number_bullet_lists', 'number_highlighted_sections', 'title', 'xml_format', 'json_format'];
      const checked = validateInstructions(
        [
          ...ids.map((id) => `detectable_format:${id}`),
          'detectable_content:number_placeholders',
          'length_constraints:number_sentences',
        ],
        [
          { num_bullets: 1 },
          { num_highlights: 1 },
          {},
          {},
          {},
          { num_placeholders: 1 },
          { num_sentences: 1, relation: 'at least' },
        ],
      );
      const started = performance.now();
      checkInstructions(checked, '', `x${piece.repeat(16_000 / piece.length)}x`, { loose: true });
      expect(performance.now() - started).toBeLessThan(10_000);
    },
  );
});

describe('summariseVerdicts', () => {
  it('counts prompts and instructions', () => {
    expect(summariseVerdicts([[true, true], [true, false, false], []])).toEqual({
      responses: 3,
      instructions: 5,
      promptAccuracy: 2 / 3,
      instructionAccuracy: 3 / 5,
    });
    expect(summariseVerdicts([])).toEqual({ responses: 0, instructions: 0, promptAccuracy: 0, instructionAccuracy: 0 });
  });
});
