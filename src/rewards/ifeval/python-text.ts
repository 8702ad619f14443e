// The original checker is Python, and Python's text functions follow Unicode where JavaScript's follow other tables:
// JavaScript's \w, \b and \d know ASCII only, its \s and trim() take U+FEFF and leave U+001C to U+001F and U+0085, and its
// `.`, `^` and `$` know four line ends where Python knows one. Each piece below means what it means in Python.
// Regular expressions built from them need the `u` flag and must not use the `m` flag.

/** Inside of a character class: what str.isspace() and \s take. */
const SPACES = '\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000';
const WORD_CHARACTERS = '\\p{L}\\p{N}_';

export const SPACE = `[${SPACES}]`;
export const NON_SPACE = `[^${SPACES}]`;
export const WORD = `[${WORD_CHARACTERS}]`;
/** \b: combining marks are no word characters, ideographs are. */
export const BOUNDARY = `(?:(?<=${WORD})(?!${WORD})|(?<!${WORD})(?=${WORD}))`;
/** `^` with re.MULTILINE, and `.`: a line ends at \n and nowhere else. */
export const LINE_START = '(?<![^\\n])';
export const ANY = '[^\\n]';
export const DIGIT = '\\p{Nd}';

const LEADING_SPACE = new RegExp(`^${SPACE}+`, 'u');
const SPACE_RUN = new RegExp(`${SPACE}+`, 'u');

/** str.strip(): a scan from the end, since a pattern for trailing space takes quadratic time on long runs of it. */
export function strip(text: string): string {
  return stripEnd(text.replace(LEADING_SPACE, ''));
}

/** str.rstrip() */
export function stripEnd(text: string): string {
  let end = text.length;
  while (end > 0 && isSpace(text[end - 1]!)) end--;
  return text.slice(0, end);
}

/** str.strip(characters) for characters of the basic plane. */
export function stripCharacters(text: string, characters: string, sides: 'start' | 'end' | 'both' = 'both'): string {
  let start = 0;
  let end = text.length;
  if (sides !== 'end') while (start < end && characters.includes(text[start]!)) start++;
  if (sides !== 'start') while (end > start && characters.includes(text[end - 1]!)) end--;
  return text.slice(start, end);
}

/** str.split() without an argument. */
export function splitSpace(text: string): string[] {
  return text.split(SPACE_RUN).filter((part) => part !== '');
}

/** str.isspace() of one character of the basic plane; there is no white space outside it. */
export function isSpace(character: string): boolean {
  return SPACE_RUN.test(character);
}

/** str.isupper(): something is upper case, nothing is lower or title case, and what has no case does not count. */
export function isUpper(text: string): boolean {
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
}

/** str.islower() */
export function isLower(text: string): boolean {
  return /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text);
}

/** re.escape(): the source of a pattern that matches the text itself. */
export function literal(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, (character) => `\\u{${character.charCodeAt(0).toString(16)}}`);
}

/** len(re.findall(pattern, text)) */
export function countMatches(text: string, pattern: RegExp): number {
  return text.match(pattern)?.length ?? 0;
}
