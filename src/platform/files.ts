import { UnsupportedError } from '../errors.js';

/** The files of a platform. Paths are strings with `/`; errors are the platform's own. */
export interface FileSystem {
  exists(path: string): Promise<boolean>;
  /** Names of the entries of a folder. */
  list(path: string): Promise<string[]>;
  /** Bytes of a file. */
  size(path: string): Promise<number>;
  readText(path: string): Promise<string>;
  /** Exactly `length` bytes from `offset`; a shorter file is an error. */
  readRange(path: string, offset: number, length: number): Promise<Uint8Array>;
  /** SHA-256 of a file's content, in lower-case hexadecimal digits. */
  sha256(path: string): Promise<string>;
  /** Writes beside the path, syncs and renames: the path holds its old content or the whole new one, never a part. */
  writeAtomic(path: string, content: string | Uint8Array | AsyncIterable<Uint8Array>): Promise<void>;
  /** Makes a folder and its parents. */
  makeFolder(path: string): Promise<void>;
  /** Gives a file or folder another name in the same folder, durably. The new name must be free. */
  rename(from: string, to: string): Promise<void>;
  /** Deletes a file, or a folder with all it holds. What does not exist is no error. */
  remove(path: string): Promise<void>;
}

let installed: FileSystem | null = null;

/** Called once by the platform's own module (`platform/node.ts`), so that the layers above import no platform. */
export function installFileSystem(files: FileSystem): void {
  installed = files;
}

export function fileSystem(): FileSystem {
  if (!installed) throw new UnsupportedError('Reading and writing files', 'this platform');
  return installed;
}
