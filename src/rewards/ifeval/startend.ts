import type { Family } from './instruction.js';
import { strip, stripCharacters } from './python-text.js';

export const startend: Family = {
  'startend:end_checker': (parameters) => {
    const phrase = strip(parameters.text('end_phrase')).toLowerCase();
    return (response) => stripCharacters(strip(response), '"').toLowerCase().endsWith(phrase);
  },

  // Straight quotation marks only.
  'startend:quotation': () => (response) => {
    const text = strip(response);
    return text.length > 1 && text.startsWith('"') && text.endsWith('"');
  },
};
