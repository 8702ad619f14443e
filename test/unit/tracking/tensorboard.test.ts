import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { crc32c, maskedCrc32c } from '../../../src/tracking/crc32c.js';
import { TensorBoardTracker, tfRecord } from '../../../src/tracking/tensorboard.js';

const folder = await mkdtemp(join(tmpdir(), 'grpo-tensorboard-'));
afterAll(() => rm(folder, { recursive: true }));

/** The data of each record, after a check of both CRCs. */
function records(file: Buffer): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0; at < file.length; ) {
    const length = Number(file.readBigUInt64LE(at));
    expect(file.readUInt32LE(at + 8)).toBe(maskedCrc32c(file.subarray(at, at + 8)));
    const data = file.subarray(at + 12, at + 12 + length);
    expect(file.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(data));
    found.push(data);
    at += length + 16;
  }
  return found;
}

describe('crc32c', () => {
  // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
  it.each([
    ['zeros', new Uint8Array(32), 0x8a9136aa],
    ['ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['ascending', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['123456789', new TextEncoder().encode('123456789'), 0xe3069283],
    ['nothing', new Uint8Array(0), 0],
  ])('agrees with the published value for %s', (_, bytes, expected) => {
    expect(crc32c(bytes)).toBe(expected);
  });
});

describe('TensorBoardTracker', () => {
  it('frames records with length and CRCs', () => {
    const [data] = records(Buffer.from(tfRecord(new TextEncoder().encode('hello'))));
    expect(data?.toString()).toBe('hello');
  });

  it('writes a version event, then one event a call, in order', async () => {
    const errors: unknown[] = [];
    const tracker = new TensorBoardTracker(folder, (error) => errors.push(error));
    tracker.metrics(1, { loss: 0.5, 'clip_ratio/low_mean': 0 });
    tracker.metrics(300, { loss: 0.25 });
    await tracker.finish();
    const [version, first, second, ...rest] = records(await readFile(tracker.path));
    expect(errors).toEqual([]);
    expect(rest).toEqual([]);
    expect(version?.includes('brain.Event:2')).toBe(true);
    // Event.step is field 2, a varint: key 0x10.
    expect([...first!.subarray(9, 11)]).toEqual([0x10, 1]);
    expect([...second!.subarray(9, 12)]).toEqual([0x10, 0xac, 0x02]);
    // Value { tag: "loss", simple_value: 0.25 }, the last bytes of the event.
    expect([...second!.subarray(-11)]).toEqual([0x0a, 4, ...Buffer.from('loss'), 0x15, 0, 0, 0x80, 0x3e]);
    expect(first?.includes('clip_ratio/low_mean')).toBe(true);
  });

  it('reports a folder that cannot be written, and goes on', async () => {
    const errors: unknown[] = [];
    const tracker = new TensorBoardTracker(join(folder, 'missing'), (error) => errors.push(error));
    tracker.metrics(1, { loss: 1 });
    await tracker.finish();
    tracker.metrics(2, { loss: 1 });
    await tracker.finish();
    expect(errors).toHaveLength(1);
    expect(errors[0]).toMatchObject({ code: 'ENOENT' });
  });
});
