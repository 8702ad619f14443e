import type { Family } from './instruction.js';
import { ANY, countMatches, literal, SPACE } from './python-text.js';

const PLACEHOLDER = new RegExp(`\\[${ANY}*?\\]`, 'gu');

export const content: Family = {
  'detectable_content:number_placeholders': (parameters) => {
    const wanted = parameters.count('num_placeholders');
    return (response) => countMatches(response, PLACEHOLDER) >= wanted;
  },

  // Anywhere in the text, not only at its end.
  'detectable_content:postscript': (parameters) => {
    const pattern = postscript(parameters.text('postscript_marker').trim());
    return (response) => pattern.test(response.toLowerCase());
  },
};

/** The two usual markers may have spaces between their letters. */
function postscript(marker: string): RegExp {
  if (marker === 'P.P.S') return new RegExp(`p\\.${SPACE}?p\\.${SPACE}?s`, 'u');
  if (marker === 'P.S.') return new RegExp(`p\\.${SPACE}?s\\.`, 'u');
  return new RegExp(literal(marker.toLowerCase()), 'u');
}
