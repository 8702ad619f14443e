import type { Family } from './instruction.js';
import { SPACE, splitSpace, strip, stripCharacters } from './python-text.js';
import { countSentences, countWords } from './tokenise.js';

const DIVIDER = new RegExp(`${SPACE}?\\*\\*\\*${SPACE}?`, 'u');

export const length: Family = {
  'length_constraints:number_words': (parameters) => {
    const follows = parameters.comparison('relation', 'num_words');
    return (response) => follows(countWords(response));
  },

  'length_constraints:number_sentences': (parameters) => {
    const follows = parameters.comparison('relation', 'num_sentences');
    return (response) => follows(countSentences(response));
  },

  // Paragraphs between *** dividers. A divider may open or close the text; two in a row are a mistake.
  'length_constraints:number_paragraphs': (parameters) => {
    const wanted = parameters.count('num_paragraphs');
    return (response) => {
      const filled = response.split(DIVIDER).map((paragraph) => strip(paragraph) !== '');
      return filled.slice(1, -1).every(Boolean) && filled.filter(Boolean).length === wanted;
    };
  },

  // Paragraphs between blank lines. The paragraph asked for is found among all pieces, blank ones included.
  'length_constraints:nth_paragraph_first_word': (parameters) => {
    const wanted = parameters.count('num_paragraphs', { min: 1 });
    const nth = parameters.count('nth_paragraph', { min: 1, max: wanted });
    const firstWord = parameters.text('first_word').toLowerCase();
    return (response) => {
      const pieces = response.split('\n\n');
      if (pieces.filter((piece) => strip(piece) !== '').length !== wanted) return false;
      const [opening = ''] = splitSpace(pieces[nth - 1]!);
      const bare = stripCharacters(stripCharacters(opening, "'", 'start'), '"', 'start');
      return bare.split(/[.,?!'"]/)[0]!.toLowerCase() === firstWord;
    };
  },
};
