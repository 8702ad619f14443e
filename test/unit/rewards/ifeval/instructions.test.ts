import { describe, expect, it } from 'vitest';
import { checkInstructions, INSTRUCTION_IDS, validateInstructions } from '../../../../src/rewards/ifeval/index.js';

function check(id: string, kwargs: object, response: string): boolean {
  return checkInstructions(validateInstructions([id], [kwargs]), '', response)[0]!;
}

const LOWER = 'the river is wide and the water is cold, so people swim in it only in the summer.';

/** For each instruction: parameters, responses that follow it and responses that do not. */
const CASES: [id: string, kwargs: object, follow: string[], miss: string[]][] = [
  ['keywords:existence', { keywords: ['cat', 'Dog'] }, ['A DOG concatenates.'], ['A dog.', 'A cat.']],
  ['keywords:existence', { keywords: ['C++ (old)'] }, ['I like c++ (old).'], ['I like CCC old.']],
  ['keywords:frequency', { keyword: ' aa ', frequency: 2, relation: 'at least' }, ['AAaa'], ['aaa']],
  ['keywords:frequency', { keyword: 'aa', frequency: 2, relation: 'less than' }, ['aaa', 'b'], ['aaaa']],
  ['keywords:forbidden_words', { forbidden_words: ['cat', 'sun-set'] }, ['concatenate'], ['The CAT.', 'a sun-set']],
  ['keywords:letter_frequency', { letter: 'E', let_frequency: 3, let_relation: 'at least' }, ['Eve eats'], ['be her']],
  ['keywords:letter_frequency', { letter: '#', let_frequency: 2, let_relation: 'less than' }, ['#one'], ['#a #b']],
  [
    'language:response_language',
    { language: 'en' },
    [LOWER, '123 !'],
    ['Der Fluss ist breit und das Wasser ist kalt.'],
  ],
  ['length_constraints:number_sentences', { num_sentences: 2, relation: 'at least' }, ['One. Two!'], ['Only Mr. Fox.']],
  ['length_constraints:number_sentences', { num_sentences: 2, relation: 'less than' }, ['Only one?'], ['One. Two.']],
  [
    'length_constraints:number_paragraphs',
    { num_paragraphs: 2 },
    ['a\n***\nb', '***a***b***'],
    ['a', 'a******b', 'a***b***c'],
  ],
  ['length_constraints:number_words', { num_words: 3, relation: 'at least' }, ["I don't"], ['foo_bar baz']],
  ['length_constraints:number_words', { num_words: 2, relation: 'less than' }, ['word'], ['e-mail']],
  [
    'length_constraints:nth_paragraph_first_word',
    { num_paragraphs: 2, nth_paragraph: 2, first_word: 'Hello' },
    ['One.\n\n"hello, there', 'One.\n\n\'"Hello! there'],
    ['One.\n\n**Hello**', 'One.\n\n\n\nHello', 'Hello', 'One.\n\nHello\n\nThree'],
  ],
  ['detectable_content:number_placeholders', { num_placeholders: 2 }, ['[a] [] '], ['[a\nb] [c]']],
  [
    'detectable_content:postscript',
    { postscript_marker: 'P.S.' },
    ['Bye. p. s. More', 'P.S.'],
    ['PS: more', 'P.P.S more'],
  ],
  ['detectable_content:postscript', { postscript_marker: 'P.P.S' }, ['p. p.s more'], ['P.S. more']],
  ['detectable_content:postscript', { postscript_marker: 'N.B.' }, ['so n.b. this'], ['so nabi this']],
  [
    'detectable_format:number_bullet_lists',
    { num_bullets: 2 },
    ['* a\n  - b', '- a\n---'],
    ['* a', '**a**\n- b', '- a\n- b\n-c'],
  ],
  ['detectable_format:constrained_response', {}, ['So: My answer is no.'], ['my answer is no.', 'My answer is no']],
  [
    'detectable_format:number_highlighted_sections',
    { num_highlights: 2 },
    ['*a* and **b**'],
    ['**a**', '*a* * *', '*a\nb* *c*'],
  ],
  [
    'detectable_format:multiple_sections',
    { section_spliter: 'Part', num_sections: 2 },
    ['Part 1 a Part2 b'],
    ['part 1 part 2', 'Part one Part two'],
  ],
  [
    'detectable_format:json_format',
    {},
    ['{"a": [1]}', '```json\n{}\n```', 'null', '```\n"x"```'],
    ['{a: 1}', 'Sure: {}', '[1,]'],
  ],
  [
    'detectable_format:xml_format',
    {},
    [
      '<a><b c="1"/>x &amp; y</a>',
      '<?xml version="1.0"?>\n<!-- c -->\n<é:x>t</é:x>',
      '```xml\n<a/>\n```',
      '<a><![CDATA[<]]></a>',
    ],
    ['<a><b></a></b>', '<a>', 'text', '<a/><b/>', '<a b=1/>', '<a b="1" b="2"/>', 'Here: <a/>', '<a>x & y</a>', '</a>'],
  ],
  ['detectable_format:title', {}, ['<<Title>>', 'x <<<a>>> y'], ['<< >>', '<<a\nb>>', '<Title>']],
  [
    'combination:two_responses',
    {},
    ['a\n******\nb', '******a******b******', 'a*******b'],
    ['a', 'a******a', 'a******b******c', 'a************b'],
  ],
  ['combination:repeat_prompt', { prompt_to_repeat: ' Say Hi. ' }, ['say hi. Hi!'], ['"Say hi." Hi!', 'Hi! Say hi.']],
  ['startend:end_checker', { end_phrase: ' The End! ' }, ['It is "the end!"', 'THE END! \n'], ['The end! Bye.']],
  ['startend:quotation', {}, ['"a"', ' "a\nb" ', '""'], ['"', 'a"', '“a”']],
  [
    'change_case:capital_word_frequency',
    { capital_frequency: 2, capital_relation: 'at least' },
    ["I DON'T", 'NASA is A'],
    ['NASA', 'WELL-KNOWN'],
  ],
  [
    'change_case:capital_word_frequency',
    { capital_frequency: 1, capital_relation: 'less than' },
    ['No Caps'],
    ["NASA's"],
  ],
  ['change_case:english_capital', {}, [LOWER.toUpperCase()], [LOWER, `${LOWER.toUpperCase()}x`, '123']],
  [
    'change_case:english_lowercase',
    {},
    [LOWER],
    [LOWER.toUpperCase(), `${LOWER}X`, 'der fluss ist breit und das wasser ist kalt.'],
  ],
  ['punctuation:no_comma', {}, ['none; here，there'], ['one, two']],
];

describe('each instruction', () => {
  it.each(CASES)('%s %j', (id, kwargs, follow, miss) => {
    for (const response of follow) expect(check(id, kwargs, response), `follows: ${response}`).toBe(true);
    for (const response of miss) expect(check(id, kwargs, response), `misses: ${response}`).toBe(false);
  });

  it('has a case here', () => {
    expect([...new Set(CASES.map(([id]) => id))].sort()).toEqual(INSTRUCTION_IDS);
    expect(INSTRUCTION_IDS).toHaveLength(26);
  });
});

describe('relations in Chinese', () => {
  it.each([
    ['keywords:frequency', { keyword: 'a', frequency: 2 }, 'relation', 'a b', 'a a'],
    ['keywords:letter_frequency', { letter: 'a', let_frequency: 2 }, 'let_relation', 'a b', 'a a'],
    ['length_constraints:number_sentences', { num_sentences: 2 }, 'relation', 'One.', 'One. Two.'],
    ['length_constraints:number_words', { num_words: 2 }, 'relation', 'one', 'one two'],
    ['change_case:capital_word_frequency', { capital_frequency: 2 }, 'capital_relation', 'A b', 'A B'],
  ])('%s', (id, kwargs, relation, few, enough) => {
    expect(check(id, { ...kwargs, [relation]: '少于' }, few)).toBe(true);
    expect(check(id, { ...kwargs, [relation]: '少于' }, enough)).toBe(false);
    expect(check(id, { ...kwargs, [relation]: '至少' }, few)).toBe(false);
    expect(check(id, { ...kwargs, [relation]: '至少' }, enough)).toBe(true);
  });
});

describe('Unicode where Python and JavaScript part', () => {
  it('counts letters of all scripts as word characters, and a Chinese clause as one word', () => {
    const one = { num_words: 2, relation: 'less than' };
    expect(check('length_constraints:number_words', one, 'naïve')).toBe(true);
    expect(check('length_constraints:number_words', one, '我喜欢小猫')).toBe(true);
    expect(check('length_constraints:number_words', one, '我喜欢，小猫')).toBe(false);
    expect(check('length_constraints:number_words', one, 'x²Ⅷ½')).toBe(true);
    expect(check('length_constraints:number_words', one, 'cafe\u0301s')).toBe(false);
  });

  it('finds word boundaries beside letters with accents', () => {
    expect(check('keywords:forbidden_words', { forbidden_words: ['été'] }, "C'était bien.")).toBe(true);
    expect(check('keywords:forbidden_words', { forbidden_words: ['été'] }, 'En Été.')).toBe(false);
    expect(check('keywords:forbidden_words', { forbidden_words: ['caf'] }, 'café')).toBe(true);
  });

  it('does not find a Chinese word within a clause, and finds it between marks', () => {
    expect(check('keywords:forbidden_words', { forbidden_words: ['小猫'] }, '我喜欢小猫。')).toBe(true);
    expect(check('keywords:forbidden_words', { forbidden_words: ['小猫'] }, '你好，小猫！')).toBe(false);
  });

  it('needs a word character beside a keyword that ends in none', () => {
    expect(check('keywords:forbidden_words', { forbidden_words: ['C++'] }, 'I like C++ a lot.')).toBe(true);
    expect(check('keywords:forbidden_words', { forbidden_words: ['C++'] }, 'C++x')).toBe(false);
  });

  it('strips U+001C and U+0085 but not U+FEFF', () => {
    expect(check('startend:quotation', {}, '\x1c\x85\u3000"a"\u2029')).toBe(true);
    expect(check('startend:quotation', {}, '\ufeff"a"')).toBe(false);
    expect(check('detectable_format:number_bullet_lists', { num_bullets: 1 }, '\x85- a')).toBe(true);
    expect(check('detectable_format:number_bullet_lists', { num_bullets: 1 }, '\ufeff- a')).toBe(false);
  });

  it('ends a line at \\n only', () => {
    expect(check('detectable_format:title', {}, '<<a\r\u2028b>>')).toBe(true);
    expect(check('detectable_content:number_placeholders', { num_placeholders: 1 }, '[a\u2028b]')).toBe(true);
    expect(check('detectable_format:number_bullet_lists', { num_bullets: 1 }, 'a\r- b\u2028- c')).toBe(false);
  });

  it('takes digits of all scripts for the number of a section', () => {
    expect(
      check('detectable_format:multiple_sections', { section_spliter: 'Section', num_sections: 1 }, 'Section ٣'),
    ).toBe(true);
  });

  it('sees no case in title-case letters and numerals', () => {
    expect(check('change_case:english_lowercase', {}, `${LOWER} ǅ`)).toBe(false);
    expect(
      check('change_case:capital_word_frequency', { capital_frequency: 1, capital_relation: 'at least' }, '123 ǅ 你'),
    ).toBe(false);
  });

  it('does not end a sentence at a Chinese full stop', () => {
    expect(
      check('length_constraints:number_sentences', { num_sentences: 2, relation: 'less than' }, '你好。再见。'),
    ).toBe(true);
  });
});
