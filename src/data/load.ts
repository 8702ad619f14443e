import { FileFormatError } from '../errors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import type { PromptRecord } from './prompts.js';
import { type DemonstrationRecord, parseDemonstrations, parsePrompts } from './records.js';

/** The prompts of a JSON Lines file. A bad line is a `FileFormatError` with file and line. */
export async function loadPrompts(file: string, files: FileSystem = fileSystem()): Promise<PromptRecord[]> {
  return parsePrompts(await read(file, files), file);
}

/** The demonstrations of a JSON Lines file. */
export async function loadDemonstrations(
  file: string,
  files: FileSystem = fileSystem(),
): Promise<DemonstrationRecord[]> {
  return parseDemonstrations(await read(file, files), file);
}

async function read(file: string, files: FileSystem): Promise<string> {
  if (!(await files.exists(file))) throw new FileFormatError(file, 'there is no such file');
  return files.readText(file);
}
