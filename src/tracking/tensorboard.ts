import { hostname } from 'node:os';
import { join } from 'node:path';
import { maskedCrc32c } from './crc32c.js';
import { AppendQueue } from './line-file.js';
import type { Tracker } from './tracker.js';

/**
 * Writes scalars as TensorBoard event files. Each process writes a file of its own; TensorBoard joins the files of a
 * folder, so a resumed run continues its curves.
 */
export class TensorBoardTracker implements Tracker {
  readonly path: string;
  readonly #queue: AppendQueue;

  constructor(folder: string, onError: (error: unknown) => void, now = Date.now()) {
    this.path = join(folder, `events.out.tfevents.${Math.floor(now / 1000)}.${hostname()}.${process.pid}.grpo`);
    this.#queue = new AppendQueue(this.path, onError);
    this.#queue.append(tfRecord(versionEvent(now / 1000)));
  }

  metrics(step: number, values: Readonly<Record<string, number>>): void {
    this.#queue.append(tfRecord(scalarsEvent(Date.now() / 1000, step, values)));
  }

  async finish(): Promise<void> {
    await this.#queue.flush();
  }
}

/** A TFRecord: length (u64), masked CRC of the length, data, masked CRC of the data; little-endian. */
export function tfRecord(data: Uint8Array): Uint8Array {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return record;
}

// Fields of tensorflow's event.proto and summary.proto.
const eventWallTime = 1;
const eventStep = 2;
const eventFileVersion = 3;
const eventSummary = 5;
const summaryValue = 1;
const valueTag = 1;
const valueSimpleValue = 2;

function versionEvent(wallTime: number): Uint8Array {
  return Buffer.concat([doubleField(eventWallTime, wallTime), stringField(eventFileVersion, 'brain.Event:2')]);
}

function scalarsEvent(wallTime: number, step: number, values: Readonly<Record<string, number>>): Uint8Array {
  const scalars = Object.entries(values).map(([name, value]) =>
    bytesField(summaryValue, Buffer.concat([stringField(valueTag, name), floatField(valueSimpleValue, value)])),
  );
  return Buffer.concat([
    doubleField(eventWallTime, wallTime),
    varintField(eventStep, step),
    bytesField(eventSummary, Buffer.concat(scalars)),
  ]);
}

// Protocol buffers: a field is a key (number << 3 | wire type) and its value.
const wireVarint = 0;
const wire64Bit = 1;
const wireBytes = 2;
const wire32Bit = 5;

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  return Uint8Array.from([...bytes, rest]);
}

function key(field: number, wireType: number): Uint8Array {
  return varint((field << 3) | wireType);
}

function varintField(field: number, value: number): Uint8Array {
  return Buffer.concat([key(field, wireVarint), varint(value)]);
}

function doubleField(field: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([key(field, wire64Bit), bytes]);
}

function floatField(field: number, value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeFloatLE(value);
  return Buffer.concat([key(field, wire32Bit), bytes]);
}

function bytesField(field: number, bytes: Uint8Array): Uint8Array {
  return Buffer.concat([key(field, wireBytes), varint(bytes.length), bytes]);
}

function stringField(field: number, text: string): Uint8Array {
  return bytesField(field, Buffer.from(text));
}
