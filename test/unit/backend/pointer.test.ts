// Memory of somebody else: its order with the owner's stream, and what keeps it alive (also lifetime.test.ts).
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { InvalidArgumentError, KernelError, UnsupportedError } from '../../../src/errors.js';
import { compileFixture } from '../../c-library.js';
import { cudaOnCpu } from '../../devices.js';

const folder = mkdtempSync(join(tmpdir(), 'grpo-pointer-'));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

describe('a stream of the owner', () => {
  async function openFake() {
    vi.stubEnv('GRPO_CUDA_LIBRARY', compileFixture(folder, 'fake_backend'));
    const device = await openDevice('cuda');
    return { device, address: BigInt(device.backend.details.address!) };
  }

  test('reaches the library in call order, and only when it is given', async () => {
    const { device, address } = await openFake();
    using _ = device;
    const plain = device.tensorFromPointer(address, [4]);
    device.run('fill', { out: plain, value: 7 });
    const ordered = device.tensorFromPointer(address, [4], 'f32', { stream: 11n });
    const seen = device.empty([4]);
    device.run('copy', { in: ordered, out: seen });
    await device.synchronize({ stream: 12n });
    // The library writes a stream that it waits for into the first number, and one that waits for it into the second.
    expect([...(await seen.read())]).toEqual([11, 7, 7, 7]);
    expect([...(await plain.read())]).toEqual([11, 12, 7, 7]);
    await device.synchronize();
    expect([...(await plain.read())]).toEqual([11, 12, 7, 7]);
  });

  test.each([
    [{ stream: 12 }, /the address of a CUDA stream, as a bigint for stream but received 12/],
    [{ stream: -1n }, /for stream but received/],
    [{ stream: 1n << 64n }, /for stream but received/],
    [{ keepAlive: 5 }, /an object for keepAlive but received 5/],
    [{ keepAlive: null }, /an object for keepAlive but received null/],
    [{ keep: {} }, /options among stream, keepAlive for tensorFromPointer but received "keep"/],
  ])('refuses %o', async (options, message) => {
    const { device, address } = await openFake();
    using _ = device;
    const adopt = () => device.tensorFromPointer(address, [4], 'f32', options as never);
    expect(adopt).toThrow(InvalidArgumentError);
    expect(adopt).toThrow(message);
    expect(() => device.tensorFromPointer(address, [4], 'f64' as never)).toThrow(InvalidArgumentError);
    await expect(device.synchronize({ stream: -1n })).rejects.toThrow(InvalidArgumentError);
    expect(device.memory().liveTensors).toBe(0);
  });

  test('is refused on the CPU', async () => {
    using device = await openDevice('cpu', { threads: 1 });
    expect(() => device.tensorFromPointer(8n, [2], 'f32', { stream: 0n })).toThrow(UnsupportedError);
    await expect(device.synchronize({ stream: 0n })).rejects.toThrow(
      'The option stream is not supported by the cpu backend',
    );
  });
});

describe.skipIf(!existsSync(cudaOnCpu.library))('the CUDA library and a stream that lags', () => {
  async function open() {
    vi.stubEnv('GRPO_CUDA_LIBRARY', compileFixture(folder, 'caller_stream'));
    vi.stubEnv('GRPO_CUDA_ON_CPU_LIBRARY', cudaOnCpu.library);
    const device = await openDevice('cuda');
    const { address, stream, other } = device.backend.details;
    return { device, address: BigInt(address!), stream: BigInt(stream!), other: BigInt(other!) };
  }

  test('what is queued after the adoption sees what the stream held', async () => {
    const { device, address, stream } = await open();
    using _ = device;
    const doubled = device.empty([4]);
    const double = (options: object) => {
      const theirs = device.tensorFromPointer(address, [4], 'f32', options);
      device.run('add', { a: theirs, b: theirs, out: doubled, alpha: 1, beta: 1 });
      return doubled.read();
    };
    expect([...(await double({}))]).toEqual([0, 0, 0, 0]);
    expect([...(await double({ stream }))]).toEqual([2, 4, 6, 8]);
  });

  test('the stream waits for what was queued here', async () => {
    const { device, address, stream } = await open();
    using _ = device;
    const theirs = device.tensorFromPointer(address, [4], 'f32', { stream });
    device.run('fill', { out: theirs, value: 9 });
    await device.synchronize({ stream });
    expect([...(await theirs.read())]).toEqual([9, 9, 9, 5]);
  });

  test('a stream of another device fails that tensor, also when it is written whole, and no other', async () => {
    const { device, address, other } = await open();
    using _ = device;
    const theirs = device.tensorFromPointer(address, [4], 'f32', { stream: other });
    device.run('fill', { out: theirs, value: 1 });
    await expect(theirs.read()).rejects.toThrow(KernelError);
    await expect(theirs.read()).rejects.toThrow(/expected a stream of device 0/);
    const ours = device.zeros([2]);
    expect([...(await ours.read())]).toEqual([0, 0]);
  });
});
