import { detectLanguage, LANGUAGE_CODES } from './detect-language.js';
import type { Family } from './instruction.js';

export const language: Family = {
  'language:response_language': (parameters) => {
    const code = parameters.oneOf('language', LANGUAGE_CODES);
    return (response) => isLanguage(response, code);
  },
};

/** A text whose language cannot be told passes, as in the original. */
export function isLanguage(response: string, code: string): boolean {
  const detected = detectLanguage(response);
  return detected === undefined || detected === code;
}
