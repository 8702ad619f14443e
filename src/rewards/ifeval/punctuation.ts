import type { Family } from './instruction.js';

export const punctuation: Family = {
  // The ASCII comma only.
  'punctuation:no_comma': () => (response) => !response.includes(','),
};
