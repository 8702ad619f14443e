import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileFormatError } from '../../../src/errors.js';
import { readHeader, readModelTensors, type TensorSource, writeSafetensors } from '../../../src/models/safetensors.js';
import { nodeFileSystem } from '../../../src/platform/node.js';
import { fixtureFolder } from './fixtures.js';

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'safetensors-'));
  file = join(folder, 'model.safetensors');
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A file with this header, as JSON or raw, and this many bytes of data. */
function write(header: unknown, dataBytes: number, headerLength?: number): void {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(headerLength ?? json.length));
  writeFileSync(file, Buffer.concat([length, json, Buffer.alloc(dataBytes)]));
}

const entry = (dtype: string, shape: number[], from: number, to: number) => ({
  dtype,
  shape,
  data_offsets: [from, to],
});
const source = (name: string, shape: number[], bytes: Uint8Array): TensorSource => {
  return { name, dtype: 'f32', shape, read: async () => bytes };
};

describe('reading', () => {
  it('finds the tensors of a file', async () => {
    write({ __metadata__: { format: 'pt' }, b: entry('BF16', [3], 8, 14), a: entry('F32', [2, 1], 0, 8) }, 14);
    const tensors = await readHeader(file);
    expect(tensors.get('a')).toMatchObject({ dtype: 'f32', shape: [2, 1], bytes: 8 });
    expect(tensors.get('b')!.offset).toBe(tensors.get('a')!.offset + 8);
    expect(tensors.size).toBe(2);
  });

  it('takes scalars and empty tensors', async () => {
    write({ a: entry('F32', [], 0, 4), b: entry('F16', [0, 7], 4, 4) }, 4);
    expect((await readHeader(file)).get('b')!.bytes).toBe(0);
  });

  const good = { a: entry('F32', [2], 0, 8) };
  it.each<[string, () => void, RegExp]>([
    ['too short', () => writeFileSync(file, 'abc'), /3 bytes are too few/],
    ['with a header beyond its end', () => write(good, 8, 10_000), /header of 10000 bytes does not fit/],
    ['with an absurd header length', () => write(good, 8, 2 ** 52), /does not fit/],
    ['with a header that is no JSON', () => write('{"a":', 0), /not JSON/],
    [
      'with a header that is no UTF-8',
      () => writeFileSync(file, Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x22)),
      /not JSON/,
    ],
    ['with a header that is a list', () => write([], 0), /not a JSON object/],
    ['with an unknown dtype', () => write({ a: entry('F8_E4M3', [8], 0, 8) }, 8), /dtype F8_E4M3/],
    ['with a negative length', () => write({ a: entry('F32', [-2], 0, 8) }, 8), /proper dtype, shape/],
    ['with an entry that is no object', () => write({ a: null }, 0), /proper dtype, shape/],
    ['with one offset', () => write({ a: { dtype: 'F32', shape: [1], data_offsets: [0] } }, 4), /proper dtype/],
    ['with offsets that do not fit the shape', () => write({ a: entry('F32', [3], 0, 8) }, 8), /12 bytes does not fit/],
    ['with offsets in the wrong order', () => write({ a: entry('F32', [2], 8, 0) }, 8), /does not fit/],
    ['with a tensor beyond its end', () => write(good, 4), /does not fit its place 0 to 8 \(data: 4 bytes\)/],
    [
      'with a shape whose size overflows',
      () => write({ a: entry('F32', [2 ** 50, 2 ** 50], 0, 8) }, 8),
      /does not fit/,
    ],
    ['with overlapping tensors', () => write({ ...good, b: entry('F32', [2], 4, 12) }, 12), /b overlaps/],
    ['with a gap', () => write({ ...good, b: entry('F32', [1], 12, 16) }, 16), /b leaves a gap/],
    ['with bytes left over', () => write(good, 12), /end at byte \d+ of \d+/],
  ])('a file %s is an error that names it', async (_, make, message) => {
    make();
    const error = await readHeader(file).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FileFormatError);
    expect((error as FileFormatError).file).toBe(file);
    expect((error as Error).message).toMatch(message);
  });
});

describe('shards', () => {
  it('are joined by their index', async () => {
    const whole = await readModelTensors(fixtureFolder('llama'));
    const shards = await readModelTensors(fixtureFolder('llama-sharded'));
    expect([...shards.keys()].toSorted()).toEqual([...whole.keys()].toSorted());
    expect(new Set([...shards.values()].map((t) => t.file)).size).toBe(4);
  });

  it.each([
    [{ weight_map: { a: 'missing.safetensors' } }, /missing.safetensors is missing/],
    [{ weight_map: { a: '../model.safetensors' } }, /file name for a/],
    [{ weight_map: { a: 7 } }, /file name for a/],
    [{ weight_map: { c: 'x.safetensors' } }, /does not hold c/],
    [{ weight_map: {} }, null],
    [{}, /no weight_map/],
  ])('with an index %j', async (index, message) => {
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index));
    await writeSafetensors(join(folder, 'x.safetensors'), [source('a', [1], new Uint8Array(4))]);
    const reading = readModelTensors(folder);
    if (message) await expect(reading).rejects.toThrow(message);
    else expect((await reading).size).toBe(0);
  });

  it('must list all that the files hold', async () => {
    const map = { weight_map: { a: 'x.safetensors' } };
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(map));
    const tensors = [source('a', [1], new Uint8Array(4)), source('b', [1], new Uint8Array(4))];
    await writeSafetensors(join(folder, 'x.safetensors'), tensors);
    await expect(readModelTensors(folder)).rejects.toThrow(/b of .* is not listed/);
  });

  it('or a single file must be there', async () => {
    await expect(readModelTensors(folder)).rejects.toThrow(/neither model.safetensors nor/);
  });
});

describe('writing', () => {
  it('gives a file that reads back, with the tensors at a multiple of 8', async () => {
    const bytes = Uint8Array.from({ length: 8 }, (_, i) => i);
    await writeSafetensors(file, [source('x', [2], bytes), source('y', [0], new Uint8Array())], { format: 'pt' });
    const tensors = await readHeader(file);
    const { offset, bytes: length } = tensors.get('x')!;
    expect(offset % 8).toBe(0);
    expect(await nodeFileSystem.readRange(file, offset, length)).toEqual(bytes);
    expect(readFileSync(file, 'utf8')).toContain('"__metadata__":{"format":"pt"}');
  });

  it('leaves the old file alone, and nothing beside it, when a tensor cannot be read', async () => {
    writeFileSync(file, 'old');
    const broken: TensorSource = {
      name: 'b',
      dtype: 'f32',
      shape: [1],
      read: () => Promise.reject(new Error('device lost')),
    };
    await expect(writeSafetensors(file, [source('a', [1], new Uint8Array(4)), broken])).rejects.toThrow('device lost');
    await expect(writeSafetensors(file, [source('a', [2], new Uint8Array(4))])).rejects.toThrow(/gave 4 bytes/);
    expect(readFileSync(file, 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['model.safetensors']);
  });
});
