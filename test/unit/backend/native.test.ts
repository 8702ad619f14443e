import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { DisposedError, InvalidArgumentError } from '../../../src/errors.js';
import type { Device } from '../../../src/tensor.js';

let device: Device;
let other: Device;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 2 });
  other = await openDevice('cpu', { threads: 1 });
});

afterAll(async () => {
  await device.synchronize();
  expect(device.memory()).toMatchObject({ liveTensors: 0, liveBytes: 0 });
  device.close();
  other.close();
});

describe('a tensor', () => {
  test('gives back what was written, in every dtype', async () => {
    using f32 = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    using bf16 = device.tensor(Uint16Array.of(0x3f80, 0xc000), [2], 'bf16');
    using f16 = device.tensor([0.5, -65504], [2], 'f16');
    using i32 = device.tensor([-(2 ** 31), 2 ** 31 - 1], [2], 'i32');
    expect(await f32.read()).toEqual(Float32Array.of(1, 2, 3, 4, 5, 6));
    expect(await bf16.read()).toEqual(Float32Array.of(1, -2));
    expect(await f16.read()).toEqual(Float32Array.of(0.5, -65504));
    expect(await i32.read()).toEqual(Int32Array.of(-(2 ** 31), 2 ** 31 - 1));
  });

  test('may have no dimension or no element', async () => {
    using scalar = device.tensor([7], []);
    using nothing = device.tensor([], [0, 4]);
    device.run('fill', { out: nothing, value: 1 });
    expect(await scalar.read()).toEqual(Float32Array.of(7));
    expect(await nothing.read()).toEqual(new Float32Array(0));
  });

  test('is filled, copied and gathered by the kernels', async () => {
    using x = device.tensor([1, 2, 3, 4, 5, 6], [3, 2]);
    using indices = device.tensor([2, 0], [2], 'i32');
    using rows = device.empty([2, 2]);
    using half = device.zeros([2, 2], 'bf16');
    device.run('gatherRows', { in: x, indices, out: rows });
    device.run('copy', { in: rows, out: half });
    device.run('fill', { out: rows, value: 7 });
    expect(await half.read()).toEqual(Float32Array.of(5, 6, 1, 2));
    expect(await rows.read()).toEqual(Float32Array.of(7, 7, 7, 7));
  });

  test('takes the data at the time of the call', async () => {
    const data = Float32Array.of(1, 2);
    using x = device.tensor(data, [2]);
    data.fill(9);
    expect(await x.read()).toEqual(Float32Array.of(1, 2));
  });

  test('takes data in shared memory', async () => {
    const data = new Float32Array(new SharedArrayBuffer(8));
    data.set([3, 4]);
    using x = device.tensor(data, [2]);
    expect(await x.read()).toEqual(Float32Array.of(3, 4));
  });

  test('reads the values of the moment at which read() was called', async () => {
    using x = device.zeros([2]);
    const before = x.read();
    device.run('fill', { out: x, value: 1 });
    expect(await before).toEqual(Float32Array.of(0, 0));
    expect(await x.read()).toEqual(Float32Array.of(1, 1));
  });

  test('refuses data of the wrong length, and data that was detached', () => {
    using x = device.zeros([4]);
    const detached = new Float32Array(4);
    structuredClone(detached, { transfer: [detached.buffer] });
    expect(() => x.write([1, 2])).toThrow(new InvalidArgumentError('data', '4 elements (shape [4])', '2 elements'));
    expect(() => x.write(detached)).toThrow(InvalidArgumentError);
    expect(() => x.writeBytes(new Uint8Array(12))).toThrow(InvalidArgumentError);
  });

  test('refuses data over a buffer that was shortened', () => {
    const buffer = new (
      ArrayBuffer as unknown as new (
        n: number,
        o: object,
      ) => ArrayBuffer & { resize(n: number): void }
    )(16, { maxByteLength: 16 });
    const data = new Float32Array(buffer, 0, 4);
    using x = device.tensor(data, [4]);
    buffer.resize(4);
    expect(() => x.write(data)).toThrow(InvalidArgumentError);
  });

  test('cannot be used after dispose', async () => {
    const x = device.zeros([2]);
    x.dispose();
    x.dispose();
    expect(x.disposed).toBe(true);
    expect(() => x.write([1, 2])).toThrow(DisposedError);
    expect(() => device.run('fill', { out: x, value: 1 })).toThrow(DisposedError);
    await expect(x.read()).rejects.toThrow(DisposedError);
  });

  test('may be disposed while operations on it wait', async () => {
    const x = device.zeros([1 << 20]);
    using y = device.empty([1 << 20]);
    for (let i = 0; i < 10; i++) device.run('fill', { out: x, value: i });
    device.run('copy', { in: x, out: y });
    const waiting = x.read();
    x.dispose();
    expect((await waiting)[0]).toBe(9);
    expect((await y.read())[5]).toBe(9);
  });
});

describe('a view', () => {
  test('shares memory, with an offset and a row stride', async () => {
    using x = device.tensor([1, 2, 3, 4, 5, 6], [2, 3]);
    using right = x.view([2, 2], 1, 3);
    using compact = device.empty([2, 2]);
    device.run('copy', { in: right, out: compact });
    expect(await compact.read()).toEqual(Float32Array.of(2, 3, 5, 6));
    device.run('fill', { out: right, value: 0 });
    expect(await x.read()).toEqual(Float32Array.of(1, 0, 0, 4, 0, 0));
    await expect(right.read()).rejects.toThrow(InvalidArgumentError);
  });

  test('keeps the memory when the first tensor is disposed', async () => {
    const x = device.tensor([1, 2, 3, 4], [4]);
    using tail = x.view([2], 2);
    x.dispose();
    expect(device.memory().liveTensors).toBe(1);
    expect(await tail.read()).toEqual(Float32Array.of(3, 4));
  });

  test.each([
    ['beyond the end', [3], 2, 3],
    ['before the start', [2], -1, 2],
    ['with rows that overlap', [2, 2], 0, 1],
    ['whose last row ends outside', [2, 2], 0, 3],
  ])('%s is refused', (_, shape, offset, stride) => {
    using x = device.zeros([4]);
    expect(() => x.view(shape, offset, stride)).toThrow(InvalidArgumentError);
  });
});

describe('an operation', () => {
  test('refuses what does not fit its entry, and names it', () => {
    using x = device.zeros([2, 3]);
    using wrong = device.zeros([3, 2]);
    using integers = device.zeros([2], 'i32');
    expect(() => device.run('copy', { in: x, out: wrong })).toThrow(/shape \[2,3\] for copy: out/);
    expect(() => device.run('gatherRows', { in: x, indices: x, out: x })).toThrow(/dtype i32 for gatherRows: indices/);
    expect(() => device.run('add', { a: integers, b: x, out: x, alpha: 1, beta: 1 })).toThrow(/f32 or bf16.*add: a/);
    expect(() => device.run('fill', { value: 1 } as never)).toThrow(/a tensor for fill: out.*null/);
    expect(() => device.run('fill', { out: x } as never)).toThrow(/a number for fill: value/);
    expect(() => device.run('fill', { out: [1] as never, value: 1 })).toThrow(/a tensor for fill: out/);
  });

  test('refuses a tensor of another device', () => {
    using here = device.zeros([2]);
    using there = other.zeros([2]);
    expect(() => device.run('copy', { in: there, out: here })).toThrow(/a tensor of cpu/);
  });
});

describe('memory()', () => {
  test('counts what is live, what is kept and the peak', async () => {
    await other.synchronize(); // what earlier tests disposed of is only then given back
    const before = other.memory();
    const x = other.empty([1 << 16]);
    const view = x.view([4], 0);
    await other.synchronize();
    const during = other.memory();
    expect(during.liveTensors).toBe(before.liveTensors + 1);
    expect(during.liveBytes - before.liveBytes).toBeGreaterThanOrEqual(4 << 16);
    expect(during.peakBytes).toBeGreaterThanOrEqual(during.liveBytes);
    x.dispose();
    view.dispose();
    await other.synchronize();
    expect(other.memory().liveBytes).toBe(before.liveBytes);
    expect(other.memory().reservedBytes).toBeGreaterThanOrEqual(4 << 16);
  });
});

describe('memory of somebody else', () => {
  test('is refused when the address cannot be one', () => {
    expect(() => device.tensorFromPointer(0n, [2])).toThrow(InvalidArgumentError);
    expect(() => device.tensorFromPointer(-1n, [2])).toThrow(InvalidArgumentError);
    expect(() => device.tensorFromPointer(12 as never, [2])).toThrow(InvalidArgumentError);
  });
});
