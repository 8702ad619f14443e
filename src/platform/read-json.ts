import { FileFormatError } from '../errors.js';
import { type FileSystem, fileSystem } from './files.js';

/** Reads a file that holds one JSON object. */
export async function readJsonObject(file: string, files: FileSystem = fileSystem()): Promise<Record<string, unknown>> {
  if (!(await files.exists(file))) throw new FileFormatError(file, 'there is no such file');
  const text = await files.readText(file);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FileFormatError(file, `not JSON: ${(error as Error).message}`, undefined, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new FileFormatError(file, 'expected a JSON object');
  }
  return value as Record<string, unknown>;
}
