import { FileFormatError } from '../errors.js';

/** The values of a JSON Lines text, each with its line number (from 1). Empty lines are left out. */
export function parseJsonl(text: string, file: string): { line: number; value: unknown }[] {
  const rows: { line: number; value: unknown }[] = [];
  text
    .replace(/^\uFEFF/, '')
    .split('\n')
    .forEach((line, index) => {
      if (line.trim() === '') return;
      try {
        rows.push({ line: index + 1, value: JSON.parse(line) });
      } catch (error) {
        throw new FileFormatError(file, `not JSON: ${(error as Error).message}`, index + 1, { cause: error });
      }
    });
  return rows;
}
