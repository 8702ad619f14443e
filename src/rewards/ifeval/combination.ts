import type { Family } from './instruction.js';
import { strip } from './python-text.js';

export const combination: Family = {
  // Exactly two different responses. A divider may also open or close the text.
  'combination:two_responses': () => (response) => {
    const pieces = response.split('******').map(strip);
    const filled = pieces.filter((piece) => piece !== '');
    return pieces.slice(1, -1).every((piece) => piece !== '') && filled.length === 2 && filled[0] !== filled[1];
  },

  'combination:repeat_prompt': (parameters) => {
    const prompt = strip(parameters.text('prompt_to_repeat')).toLowerCase();
    return (response) => strip(response).toLowerCase().startsWith(prompt);
  },
};
