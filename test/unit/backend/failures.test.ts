import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { DisposedError, KernelError, OutOfMemoryError, UnsupportedError } from '../../../src/errors.js';
import type { Device, Tensor } from '../../../src/tensor.js';

let device: Device;

beforeEach(async () => {
  device = await openDevice('cpu', { threads: 2 });
});

afterEach(() => device.close());

/** A tensor [1, 2] that a kernel should have written, but refused to. */
function failed(): Tensor {
  const out = device.zeros([1, 2]);
  device.run('gatherRows', { in: device.zeros([3, 2]), indices: device.tensor([5], [1], 'i32'), out });
  return out;
}

describe('a kernel that fails', () => {
  test('makes reading its result reject', async () => {
    const error = await failed()
      .read()
      .catch((e) => e);
    expect(error).toBeInstanceOf(KernelError);
    expect(error).toMatchObject({ code: 'GRPO_KERNEL', message: expect.stringMatching(/indices\[0\].*0 to 2.*5/) });
  });

  test('makes reading anything computed from its result reject with the same error', async () => {
    const [copy, sum] = [device.zeros([1, 2]), device.zeros([1, 2])];
    device.run('copy', { in: failed(), out: copy });
    device.run('copy', { in: copy, out: sum });
    await expect(sum.read()).rejects.toThrow(/indices\[0\]/);
  });

  test('leaves other tensors and the device usable', async () => {
    const x = device.tensor([1, 2], [2]);
    failed();
    expect(await x.read()).toEqual(Float32Array.of(1, 2));
    await device.synchronize();
  });

  test('is forgotten when its result is written whole again', async () => {
    const filled = failed();
    device.run('fill', { out: filled, value: 4 });
    expect(await filled.read()).toEqual(Float32Array.of(4, 4));
    const written = failed();
    written.write([5, 6]);
    expect(await written.read()).toEqual(Float32Array.of(5, 6));
  });

  test('is not forgotten when its result is written in part', async () => {
    const out = failed();
    device.run('fill', { out: out.view([1], 0), value: 4 });
    await expect(out.read()).rejects.toThrow(KernelError);
  });

  test('names what a backend does not have', async () => {
    const out = device.zeros([2], 'i32');
    device.run('copy', { in: device.zeros([2]), out });
    await expect(out.read()).rejects.toThrow(UnsupportedError);
  });
});

describe('running out of memory', () => {
  const impossible = 2 ** 50;

  test('rejects with the request, what is live and the largest allocations', async () => {
    const small = device.zeros([1024]);
    const large = device.zeros([1024, 1024]);
    const huge = device.empty([impossible / 4]);
    const error = await huge
      .view([2])
      .read()
      .catch((e) => e);
    expect(error).toBeInstanceOf(OutOfMemoryError);
    expect(error.message).toBe(
      'No memory on cpu for 1024.00 TiB; 4.00 MiB are live in 2 allocations, the largest of 4.00 MiB, 4.00 KiB',
    );
    small.dispose();
    large.dispose();
  });

  test('fails what uses the tensor, and leaves the device usable', async () => {
    const huge = device.empty([impossible / 4]);
    const part = huge.view([4]);
    const copy = device.zeros([4]);
    part.write([1, 2, 3, 4]);
    device.run('fill', { out: part, value: 1 });
    device.run('copy', { in: part, out: copy });
    await expect(copy.read()).rejects.toThrow(OutOfMemoryError);
    await expect(part.read()).rejects.toThrow(OutOfMemoryError);
    huge.dispose();
    const next = device.tensor([1], [1]);
    expect(await next.read()).toEqual(Float32Array.of(1));
  });
});

describe('closing a device', () => {
  test('rejects what waits, and does not block', async () => {
    const x = device.zeros([1 << 24]);
    for (let i = 0; i < 50; i++) device.run('fill', { out: x, value: i });
    const waiting = [x.view([2]).read(), device.synchronize()];
    const settled = Promise.allSettled(waiting);
    const start = performance.now();
    device.close();
    expect(performance.now() - start).toBeLessThan(100);
    for (const result of await settled) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'GRPO_DISPOSED' } });
    }
  });

  test('frees the tensors; using them or the device is an error', async () => {
    const x = device.zeros([2]);
    device.close();
    device.close();
    expect(device.closed).toBe(true);
    expect(device.memory()).toEqual({ liveBytes: 0, reservedBytes: 0, peakBytes: 0, liveTensors: 0 });
    x.dispose();
    expect(() => device.zeros([2])).toThrow(DisposedError);
    expect(() => device.run('fill', { out: x, value: 1 })).toThrow(DisposedError);
    await expect(x.read()).rejects.toThrow(DisposedError);
    await expect(device.synchronize()).rejects.toThrow(DisposedError);
  });
});
