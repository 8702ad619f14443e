import type { Family } from './instruction.js';
import { BOUNDARY, countMatches, literal } from './python-text.js';

/** Keywords are taken literally; the original takes them as regular expressions, which none of its data needs. */
export const keywords: Family = {
  'keywords:existence': (parameters) => {
    const patterns = parameters.texts('keywords').map((keyword) => new RegExp(literal(keyword), 'iu'));
    return (response) => patterns.every((pattern) => pattern.test(response));
  },

  'keywords:frequency': (parameters) => {
    const pattern = new RegExp(literal(parameters.text('keyword').trim()), 'giu');
    const follows = parameters.comparison('relation', 'frequency');
    return (response) => follows(countMatches(response, pattern));
  },

  // Whole words: a Chinese word within a Chinese clause has no boundary around it and is not found, as in the original.
  'keywords:forbidden_words': (parameters) => {
    const words = parameters.texts('forbidden_words').map(literal);
    const pattern = new RegExp(`${BOUNDARY}(?:${words.join('|')})${BOUNDARY}`, 'iu');
    return (response) => !pattern.test(response);
  },

  'keywords:letter_frequency': (parameters) => {
    const letter = parameters.text('letter').trim().toLowerCase();
    if ([...letter].length !== 1) throw parameters.error('letter', 'a single character', letter);
    const follows = parameters.comparison('let_relation', 'let_frequency');
    return (response) => follows(response.toLowerCase().split(letter).length - 1);
  },
};
