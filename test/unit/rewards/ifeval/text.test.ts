import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { detectLanguage } from '../../../../src/rewards/ifeval/detect-language.js';
import { splitSentences } from '../../../../src/rewards/ifeval/punkt.js';
import {
  BOUNDARY,
  isLower,
  isUpper,
  literal,
  splitSpace,
  strip,
  stripCharacters,
} from '../../../../src/rewards/ifeval/python-text.js';
import { countWords, treebankWords } from '../../../../src/rewards/ifeval/tokenise.js';

describe('Python text functions', () => {
  it('strip and split at the white space of Unicode', () => {
    expect(strip('\x1c \x85\u3000a\ufeff b\u2028\n')).toBe('a\ufeff b');
    expect(splitSpace(' a\x1fb\u00a0c\ufeffd ')).toEqual(['a', 'b', 'c\ufeffd']);
    expect(stripCharacters('"\'"a"', '"')).toBe('\'"a');
    expect(stripCharacters('<<a<', '<', 'start')).toBe('a<');
    expect(stripCharacters('>a>>', '>', 'end')).toBe('>a');
  });

  it('take what has case, and only that', () => {
    expect([isUpper('A1 É'), isUpper('Aa'), isUpper('12'), isUpper('Aǅ'), isUpper('猫')]).toEqual([
      true,
      false,
      false,
      false,
      false,
    ]);
    expect([isLower('a1 é'), isLower('aA'), isLower('12'), isLower('aǅ'), isLower('ª')]).toEqual([
      true,
      false,
      false,
      false,
      true,
    ]);
  });

  it('see a boundary between what is a word character and what is not', () => {
    const parts = 'naïve, 我喜欢 x²'.split(new RegExp(BOUNDARY, 'u'));
    expect(parts).toEqual(['naïve', ', ', '我喜欢', ' ', 'x²']);
  });

  it('escape any text to a pattern of itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => new RegExp(`^(?:${literal(text)})$`, 'u').test(text)),
    );
  });

  it('strip nothing that is not at an end', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: fc.constantFrom(' ', 'a', '\x85', '\n') }),
        (text) => strip(`a${text}a`) === `a${text}a`,
      ),
    );
  });
});

describe('splitSentences', () => {
  it.each([
    ['', []],
    [' \n ', []],
    ['One. Two! Three? four', ['One.', 'Two!', 'Three?', 'four']],
    ['Mr. Fox met Dr. Hen at 5 p.m. on Jan. 3.', ['Mr. Fox met Dr. Hen at 5 p.m. on Jan. 3.']],
    ['He lives in the U.S. However he is Dutch.', ['He lives in the U.S.', 'However he is Dutch.']],
    ['She said "No." Then she left.', ['She said "No."', 'Then she left.']],
    ['(It is so.) “Quite.” Yes.', ['(It is so.)', '“Quite.”', 'Yes.']],
    ['Wait... what? No... The end.', ['Wait... what?', 'No...', 'The end.']],
    ['What?! No way!!! I see.', ['What?!', 'No way!!!', 'I see.']],
    ['1. Open it.\n2. close it.', ['1.', 'Open it.', '2. close it.']],
    ['J. Bach and A. Overview.', ['J. Bach and A.', 'Overview.']],
    ['It costs $3.50 at a.b.com now.', ['It costs $3.50 at a.b.com now.']],
    ['No space.Next one', ['No space.Next one']],
    ['end.\n\n\nstart', ['end.', 'start']],
  ])('%j', (text, sentences) => {
    expect(splitSentences(text)).toEqual(sentences);
  });

  it('loses nothing but white space', () => {
    const text = fc.string({ unit: fc.constantFrom('a', 'B', '.', '?', '!', '"', ')', ' ', '\n', '-', '1', ',', '…') });
    fc.assert(
      fc.property(text, (sample) => {
        expect(splitSentences(sample).join('').replace(/\s/g, '')).toBe(sample.replace(/\s/g, ''));
      }),
    );
  });

  it('takes time in proportion to the length of the text', () => {
    const started = performance.now();
    for (const piece of ['. ', 'a.', '!', ' \n', '- ', '"']) splitSentences(piece.repeat(50_000));
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

describe('words', () => {
  it('are runs of word characters where they are counted', () => {
    expect(countWords("don't e-mail foo_bar 3.5 我喜欢")).toBe(8);
  });

  it.each([
    ["I DON'T know NASA's plan.", ['I', 'DO', "N'T", 'know', 'NASA', "'s", 'plan']],
    ['CANNOT, gonna: 3:30 R&D', ['CAN', 'NOT', 'gon', 'na', '3:30', 'R', 'D']],
    ['A--B C/D WELL-KNOWN (USA) U.S. army', ['A', 'B', 'C/D', 'WELL-KNOWN', 'USA', 'U.S.', 'army']],
    ['IT’S “FINE” — OK*', ['IT', 'S', 'FINE', 'OK']],
    ["SHE'LL 'Ll stay", ['SHE', "'LL", "'Ll", 'stay']],
  ])('of %j are those of the Penn Treebank where their case counts', (text, words) => {
    expect(treebankWords(text)).toEqual(words);
  });
});

describe('detectLanguage', () => {
  it.each([
    ['en', 'The river rises in the hills and crosses three counties before it meets the sea.'],
    ['de', 'Der Fluss entspringt in den Bergen und fließt durch drei Länder.'],
    ['fr', "La rivière traverse la vieille ville, et les habitants s'y promènent."],
    ['es', 'El río nace en las montañas y llega al mar después de cruzar tres provincias.'],
    ['pt', 'O rio nasce nas montanhas e chega ao mar depois de atravessar três distritos.'],
    ['it', 'Il fiume nasce in montagna e attraversa la città vecchia prima di arrivare al mare.'],
    ['vi', 'Sông bắt nguồn từ vùng núi và chảy qua ba tỉnh trước khi ra biển.'],
    ['sw', 'Mto huu unaanzia milimani na watu wengi hupenda kutembea hapa kila jioni.'],
    ['ru', 'Река берёт начало в горах и впадает в море.'],
    ['ar', 'ينبع النهر من الجبال ويمر بالمدينة القديمة قبل أن يصل إلى البحر.'],
    ['hi', 'यह नदी पहाड़ों से निकलती है और गाँव के पास से बहती है।'],
    ['th', 'แม่น้ำสายนี้ไหลจากภูเขาผ่านเมืองเก่าไปสู่ทะเล'],
    ['ko', '이 강은 산에서 시작하여 바다로 흐릅니다.'],
    ['ja', 'この川は山から流れてきて、町の中を通ります。'],
    ['zh-cn', '这条河从山里流出来，我们喜欢在河边散步。'],
    ['zh-tw', '這條河從山裡流出來，我們喜歡在河邊散步。'],
    [undefined, '123 + 456 = 579 !'],
  ])('%s', (code, text) => {
    expect(detectLanguage(text)).toBe(code);
  });

  it('ignores addresses, and Latin terms in a text of another script', () => {
    expect(detectLanguage('https://example.org/the/river/is/wide info@example.org')).toBeUndefined();
    expect(detectLanguage('Река Thames берёт начало в горах и впадает в море.')).toBe('ru');
  });
});
