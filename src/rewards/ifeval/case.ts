import type { Family } from './instruction.js';
import { isLanguage } from './language.js';
import { isLower, isUpper } from './python-text.js';
import { treebankWords } from './tokenise.js';

export const letterCase: Family = {
  'change_case:capital_word_frequency': (parameters) => {
    const follows = parameters.comparison('capital_relation', 'capital_frequency');
    return (response) => follows(treebankWords(response).filter(isUpper).length);
  },

  'change_case:english_capital': () => (response) => isUpper(response) && isLanguage(response, 'en'),

  'change_case:english_lowercase': () => (response) => isLower(response) && isLanguage(response, 'en'),
};
