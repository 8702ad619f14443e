import { splitSentences } from './punkt.js';
import { BOUNDARY, countMatches, DIGIT, SPACE, splitSpace, WORD } from './python-text.js';

const WORD_RUN = new RegExp(`${WORD}+`, 'gu');

/** Words as the original counts them: runs of letters, digits and underscores. "don't" is two, a Chinese clause is one. */
export function countWords(text: string): number {
  return countMatches(text, WORD_RUN);
}

export function countSentences(text: string): number {
  return splitSentences(text).length;
}

/** Marks that stand alone wherever they occur. */
const ALONE = /[«»“”‘’„`;@#$%&\u2012-\u2015?!*[\](){}<>"]|''|--|\.{2,}/gu;
const COLON_OR_COMMA = new RegExp(`[:,](?!${DIGIT})`, 'gu');
const FINAL_STOP = new RegExp(`(?<!\\.)\\.(?=(?:[\\])}>"'»”’]|${SPACE})*$)`, 'gu');
const CLITIC = /(?<=[^' ])('(?:[smd]|ll|re|ve)|n't) /gi;
/** Cased as in the original: "'Ll" stays joined. */
const IS_CLITIC = /^(?:'[smdSMD]|'ll|'LL|'re|'RE|'ve|'VE|n't|N'T)$/;
const CONTRACTION = new RegExp(
  `${BOUNDARY}(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na)(?=${SPACE}))${BOUNDARY}`,
  'giu',
);

/**
 * The words of a text, cut the way of the Penn Treebank as nltk.word_tokenize does: "DON'T" gives DO and N'T, "NASA's" NASA
 * and 's, "WELL-KNOWN" one word. Marks that stand alone are left out, since they have no case.
 */
export function treebankWords(text: string): string[] {
  return splitSentences(text).flatMap(sentenceWords);
}

function sentenceWords(sentence: string): string[] {
  const words = splitSpace(sentence.replace(FINAL_STOP, ' ').replace(ALONE, ' ').replace(COLON_OR_COMMA, ' '));
  const parted = `${words.join(' ')} `
    .replace(CLITIC, (match, clitic: string) => (IS_CLITIC.test(clitic) ? ` ${clitic} ` : match))
    .replace(CONTRACTION, (...groups) => ` ${groups.slice(1, 17).filter(Boolean).join(' ')} `);
  return splitSpace(parted);
}
