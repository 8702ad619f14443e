import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileFormatError } from '../../../src/errors.js';
import { fileSystem } from '../../../src/platform/files.js';
import { nodeFileSystem as files } from '../../../src/platform/node.js';
import { readJsonObject } from '../../../src/platform/read-json.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'files-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('files', () => {
  it('are those of Node once its module is loaded', () => {
    expect(fileSystem()).toBe(files);
  });

  it('are read in part, and a part beyond the end is an error', async () => {
    const path = join(folder, 'a');
    writeFileSync(path, 'abcdef');
    expect(await files.size(path)).toBe(6);
    expect(new TextDecoder().decode(await files.readRange(path, 2, 3))).toBe('cde');
    expect(await files.readRange(path, 6, 0)).toHaveLength(0);
    await expect(files.readRange(path, 4, 3)).rejects.toThrow(/ends at byte 6/);
  });

  it('are written whole, from text, bytes or chunks, and replace what was there', async () => {
    const path = join(folder, 'a');
    async function* chunks() {
      yield Uint8Array.of(1, 2);
      yield Uint8Array.of(3);
    }
    for (const [content, expected] of [
      ['text', Buffer.from('text')],
      [Uint8Array.of(9), Buffer.of(9)],
      [chunks(), Buffer.of(1, 2, 3)],
    ] as const) {
      await files.writeAtomic(path, content);
      expect(readFileSync(path)).toEqual(expected);
    }
    expect(await files.list(folder)).toEqual(['a']);
  });

  it('keep their old content, with nothing beside them, when writing fails', async () => {
    const path = join(folder, 'a');
    writeFileSync(path, 'old');
    // biome-ignore lint/correctness/useYield: it fails before its first chunk
    async function* broken(): AsyncGenerator<Uint8Array> {
      throw new Error('no more');
    }
    await expect(files.writeAtomic(path, broken())).rejects.toThrow('no more');
    expect(readFileSync(path, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['a']);
  });

  it('lie in folders that are made with their parents', async () => {
    const deep = join(folder, 'b/c');
    expect(await files.exists(deep)).toBe(false);
    await files.makeFolder(deep);
    await files.makeFolder(deep);
    expect(await files.exists(deep)).toBe(true);
  });
});

it.each([
  ['{"a": [1]}', { a: [1] }],
  ['[1]', /expected a JSON object/],
  ['null', /expected a JSON object/],
  ['{', /not JSON/],
])('a JSON object is read from %s, or the file is named', async (text, expected) => {
  const path = join(folder, 'x.json');
  writeFileSync(path, text);
  if (!(expected instanceof RegExp)) {
    expect(await readJsonObject(path)).toEqual(expected);
    return;
  }
  const error = await readJsonObject(path).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(FileFormatError);
  expect((error as Error).message).toContain(path);
  expect((error as Error).message).toMatch(expected);
});
