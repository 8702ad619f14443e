import type { DType } from '../backend/backend.js';
import { bytesPerElement } from '../backend/backend.js';
import { FileFormatError } from '../errors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import { elementCount } from '../tensor.js';

/**
 * safetensors: 8 bytes with the length of the header (little endian), a JSON header that gives dtype, shape and place of
 * each tensor, then the tensors without gaps.
 */
export interface StoredTensor {
  file: string;
  name: string;
  dtype: DType;
  shape: number[];
  /** Byte of the file where it begins. */
  offset: number;
  bytes: number;
}

const dtypeNames: Record<string, DType> = { F32: 'f32', BF16: 'bf16', F16: 'f16', I32: 'i32' };
const storedNames: Record<DType, string> = { f32: 'F32', bf16: 'BF16', f16: 'F16', i32: 'I32' };
const maxHeaderBytes = 100 * 2 ** 20;

/** The tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists. */
export async function readModelTensors(
  folder: string,
  files: FileSystem = fileSystem(),
): Promise<Map<string, StoredTensor>> {
  const single = `${folder}/model.safetensors`;
  if (await files.exists(single)) return readHeader(single, files);
  const indexFile = `${folder}/model.safetensors.index.json`;
  if (!(await files.exists(indexFile))) {
    throw new FileFormatError(folder, 'there is neither model.safetensors nor model.safetensors.index.json');
  }
  const { weight_map: weightMap } = await readJsonObject(indexFile, files);
  if (typeof weightMap !== 'object' || weightMap === null) throw new FileFormatError(indexFile, 'no weight_map');
  const places = Object.entries(weightMap as Record<string, unknown>);
  const shards = new Map<string, Map<string, StoredTensor>>();
  const tensors = new Map<string, StoredTensor>();
  for (const [name, shard] of places) {
    if (typeof shard !== 'string' || /[\\/]/.test(shard)) {
      throw new FileFormatError(indexFile, `expected a file name for ${name}, got ${JSON.stringify(shard)}`);
    }
    if (!shards.has(shard)) {
      if (!(await files.exists(`${folder}/${shard}`))) throw new FileFormatError(indexFile, `${shard} is missing`);
      shards.set(shard, await readHeader(`${folder}/${shard}`, files));
    }
    const tensor = shards.get(shard)!.get(name);
    if (!tensor) throw new FileFormatError(indexFile, `${shard} does not hold ${name}`);
    tensors.set(name, tensor);
  }
  for (const shard of shards.values()) {
    for (const { file, name } of shard.values()) {
      if (!tensors.has(name)) throw new FileFormatError(indexFile, `${name} of ${file} is not listed`);
    }
  }
  return tensors;
}

/** Reads and checks the header of one file. Nothing is allocated for a tensor before its place is known to be good. */
export async function readHeader(file: string, files: FileSystem = fileSystem()): Promise<Map<string, StoredTensor>> {
  const size = await files.size(file);
  if (size < 8) throw new FileFormatError(file, `${size} bytes are too few for a safetensors file`);
  const prefix = await files.readRange(file, 0, 8);
  const headerBytes = Number(new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true));
  if (headerBytes > Math.min(size - 8, maxHeaderBytes)) {
    throw new FileFormatError(file, `a header of ${headerBytes} bytes does not fit (file: ${size} bytes)`);
  }
  const header = parseHeader(file, await files.readRange(file, 8, headerBytes));
  const begin = 8 + headerBytes;
  const tensors = Object.entries(header)
    .filter(([name]) => name !== '__metadata__')
    .map(([name, entry]) => parseEntry(file, name, entry, begin, size));
  let end = begin;
  for (const tensor of tensors.toSorted((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (tensor.offset !== end) {
      const problem = tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a gap before it';
      throw new FileFormatError(file, `${tensor.name} ${problem} (byte ${tensor.offset}, expected ${end})`);
    }
    end += tensor.bytes;
  }
  if (end !== size) throw new FileFormatError(file, `the tensors end at byte ${end} of ${size}`);
  return new Map(tensors.map((tensor) => [tensor.name, tensor]));
}

function parseHeader(file: string, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new FileFormatError(file, `the header is not JSON: ${(error as Error).message}`, undefined, { cause: error });
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header)) {
    throw new FileFormatError(file, 'the header is not a JSON object');
  }
  return header as Record<string, unknown>;
}

function parseEntry(file: string, name: string, entry: unknown, begin: number, size: number): StoredTensor {
  const { dtype: stored, shape, data_offsets: offsets } = (entry ?? {}) as Record<string, unknown>;
  const whole = (list: unknown): list is number[] =>
    Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (typeof stored !== 'string' || !whole(shape) || !whole(offsets) || offsets.length !== 2) {
    throw new FileFormatError(file, `${name} lacks a proper dtype, shape or data_offsets`);
  }
  const dtype = dtypeNames[stored];
  if (!dtype) {
    throw new FileFormatError(
      file,
      `${name} has dtype ${stored}; expected one of ${Object.keys(dtypeNames).join(', ')}`,
    );
  }
  const [from, to] = offsets as [number, number];
  const bytes = elementCount(shape) * bytesPerElement[dtype];
  if (to < from || to - from !== bytes || begin + to > size) {
    throw new FileFormatError(
      file,
      `${name} of shape [${shape.join(',')}] and ${bytes} bytes does not fit its place ${from} to ${to} (data: ${size - begin} bytes)`,
    );
  }
  return { file, name, dtype, shape, offset: begin + from, bytes };
}

/** A tensor to be written; `read` gives its bytes when their turn comes. */
export interface TensorSource {
  name: string;
  dtype: DType;
  shape: readonly number[];
  read: () => Promise<Uint8Array>;
}

/** Writes one file, whole or not at all. Only one tensor's bytes are in memory at a time. */
export async function writeSafetensors(
  file: string,
  tensors: readonly TensorSource[],
  metadata: Readonly<Record<string, string>> = {},
  files: FileSystem = fileSystem(),
): Promise<void> {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let end = 0;
  const sizes = tensors.map(({ name, dtype, shape }) => {
    const bytes = elementCount(shape) * bytesPerElement[dtype];
    header[name] = { dtype: storedNames[dtype], shape, data_offsets: [end, end + bytes] };
    end += bytes;
    return bytes;
  });
  const json = new TextEncoder().encode(JSON.stringify(header));
  // Padded with spaces so that the tensors begin at a multiple of 8.
  const padded = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  padded.set(json);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(padded.length), true);
  async function* content(): AsyncGenerator<Uint8Array> {
    yield length;
    yield padded;
    for (const [i, { name, read }] of tensors.entries()) {
      const bytes = await read();
      if (bytes.byteLength !== sizes[i]) {
        throw new FileFormatError(file, `${name} gave ${bytes.byteLength} bytes, expected ${sizes[i]}`);
      }
      yield bytes;
    }
  }
  await files.writeAtomic(file, content());
}
