import process from 'node:process';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { loadDawn } from '../../../src/backend/dawn.js';
import { openDevice } from '../../../src/backend/open-device.js';
import type { WebGpuBackend } from '../../../src/backend/webgpu/backend.js';
import { openWebGpuDevice, requestWebGpuAdapter } from '../../../src/backend/webgpu/open.js';
import {
  BackendUnavailableError,
  DeviceLostError,
  InvalidArgumentError,
  KernelError,
  OutOfMemoryError,
} from '../../../src/errors.js';
import { linearTokenLogProbs, tokenLogProbs } from '../../../src/kernels/index.js';
import type { Device } from '../../../src/tensor.js';
import { adapterNames, seenWith } from '../../devices.js';

const adapter = await requestWebGpuAdapter({ gpu: await loadDawn(), software: true }).catch(() => null);

const names = await adapterNames();

test.runIf(process.env.CI)('continuous integration has both adapters that compute on the processor', () => {
  expect(names.join()).toMatch(/SwiftShader/);
  expect(names.join()).toMatch(/llvmpipe/);
});

test.runIf(names.length > 0)('an adapter is found by a part of its name, and an error lists the names', async () => {
  for (const name of names) {
    using device = await openDevice(`webgpu:${name.slice(0, 8)}`);
    expect(device.name.toLowerCase()).toContain(name.slice(0, 8).toLowerCase());
  }
  const refused = openDevice('webgpu:no such adapter');
  await expect(refused).rejects.toThrow(BackendUnavailableError);
  for (const name of names) await expect(refused).rejects.toThrow(name);
});

describe('where there is no WebGPU', () => {
  test('the error says what is missing and what to do', async () => {
    await expect(openWebGpuDevice()).rejects.toThrow(/navigator\.gpu[\s\S]*npm install webgpu@0\.6\.2/);
  });

  test('an environment without adapters is told from one with an unusable driver', async () => {
    const none = { requestAdapter: async () => null } as unknown as GPU;
    await expect(openWebGpuDevice({ gpu: none })).rejects.toThrow(/no adapter was found[\s\S]*VK_ICD_FILENAMES/);
    const broken = { requestAdapter: () => Promise.reject(new Error('the driver is too old')) } as unknown as GPU;
    await expect(openWebGpuDevice({ gpu: broken })).rejects.toThrow(/the driver is too old/);
  });

  test('unknown options are refused', async () => {
    await expect(openWebGpuDevice({ adapter: 'x' } as never)).rejects.toThrow(InvalidArgumentError);
  });
});

describe.skipIf(!adapter)('a WebGPU device', () => {
  let device: Device;
  beforeAll(async () => {
    device = await openWebGpuDevice({ gpu: await loadDawn(), software: true });
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  test.runIf(adapter?.info.isFallbackAdapter)('computes on the processor only when asked for by name', async () => {
    const refused = openDevice('webgpu');
    await expect(refused).rejects.toThrow(BackendUnavailableError);
    await expect(refused).rejects.toThrow(/computes on the processor[\s\S]*webgpu:software/);
    using chosen = await openDevice('auto');
    expect(chosen.kind).not.toBe('webgpu');
    expect(chosen.why).toMatch(/computes on the processor/);
  });

  test("'auto' takes a hardware adapter before the CPU, asks for it once, and says why", async () => {
    const gpu = await loadDawn();
    const request = gpu.requestAdapter.bind(gpu);
    let requests = 0;
    gpu.requestAdapter = async (options) => {
      requests++;
      const found = (await request(options))!;
      const info = seenWith(found.info, { isFallbackAdapter: false, description: 'a card' });
      return seenWith(found, { info });
    };
    vi.stubEnv('GRPO_CUDA_LIBRARY', '/nowhere/libgrpo_cuda.so');
    try {
      using chosen = await openDevice('auto');
      expect(chosen.name).toBe('webgpu (a card)');
      expect(chosen.why).toMatch(/^auto chose WebGPU: .*nowhere.*; the adapter a card$/);
      expect(requests).toBe(1);
      using sum = chosen.tensor([1, 2], [2]);
      expect(await sum.read()).toEqual(Float32Array.of(1, 2));
    } finally {
      gpu.requestAdapter = request;
      vi.unstubAllEnvs();
    }
  });

  test('tells what it is', () => {
    expect(device.kind).toBe('webgpu');
    expect(device.backend.details.adapter).toBeTruthy();
    expect(Number(device.backend.details.maxBufferSize)).toBeGreaterThan(2 ** 20);
  });

  test('keeps 16-bit elements at odd places apart from their neighbours', async () => {
    using whole = device.tensor([1, 2, 3, 4, 5], [5], 'bf16');
    using middle = whole.view([3], 1);
    middle.write([7, 8, 9]);
    expect(await whole.read()).toEqual(Float32Array.of(1, 7, 8, 9, 5));
    device.run('fill', { out: middle, value: 0.5 });
    expect(await whole.read()).toEqual(Float32Array.of(1, 0.5, 0.5, 0.5, 5));
    expect(await middle.read()).toEqual(new Float32Array(3).fill(0.5));
  });

  test('writes and operations keep their order', async () => {
    using a = device.tensor([1, 2], [2]);
    using sum = device.empty([2]);
    device.run('add', { a, b: a, out: sum, alpha: 1, beta: 1 });
    a.write([10, 20]);
    device.run('add', { a: sum, b: a, out: sum, alpha: 1, beta: 1 });
    expect(await sum.read()).toEqual(Float32Array.of(12, 24));
  });

  test('uses the memory of disposed tensors again', async () => {
    const before = device.memory();
    for (let i = 0; i < 20; i++) {
      using tensor = device.zeros([1000]);
      await tensor.read();
    }
    const after = device.memory();
    expect(after.liveBytes).toBe(before.liveBytes);
    expect(after.reservedBytes - before.reservedBytes).toBeLessThan(3 * 4096);
  });

  test('memory that is disposed of beyond what is kept is not taken from operations that wait', async () => {
    using sum = device.zeros([4]);
    const large = Array.from({ length: 6 }, (_, i) => {
      const tensor = device.empty([2 ** 24]); // 64 MiB
      using start = tensor.view([4]);
      device.run('fill', { out: tensor, value: i });
      device.run('add', { a: sum, b: start, out: sum, alpha: 1, beta: 1 });
      return tensor;
    });
    for (const tensor of large) tensor.dispose();
    expect(await sum.read()).toEqual(new Float32Array(4).fill(15));
  });

  test('a buffer that could not be made is told, and not used again', async () => {
    const own = await (await requestWebGpuAdapter({ gpu: await loadDawn(), software: true })).requestDevice();
    const shared = await openWebGpuDevice({ gpuDevice: own });
    const create = own.createBuffer.bind(own);
    // Usages that no device allows together stand for a driver without memory.
    own.createBuffer = (descriptor) => create({ ...descriptor, usage: 0x1 | 0x80 });
    const refused = shared.empty([5000]);
    shared.run('fill', { out: refused, value: 1 });
    await expect(refused.read()).rejects.toThrow(OutOfMemoryError);
    refused.dispose();
    own.createBuffer = create;
    const good = shared.zeros([5000]);
    expect((await good.read())[4999]).toBe(0);
    good.dispose();
    shared.close();
    own.destroy();
  });

  test('a refused value fails what depends on it, and nothing else', async () => {
    using table = device.tensor([1, 2, 3], [3, 1]);
    using ids = device.tensor([0, 5], [2], 'i32');
    using rows = device.empty([2, 1]);
    using sum = device.empty([2, 1]);
    using apart = device.zeros([2]);
    device.run('embedding', { table, ids, out: rows });
    device.run('add', { a: rows, b: rows, out: sum, alpha: 1, beta: 1 });
    await expect(sum.read()).rejects.toThrow(KernelError);
    await expect(rows.read()).rejects.toThrow(/ids\[1\]: expected an index from 0 to 2 but received 5/);
    expect(await apart.read()).toEqual(new Float32Array(2));
    ids.write([2, 0]);
    device.run('embedding', { table, ids, out: rows });
    expect(await rows.read()).toEqual(Float32Array.of(3, 1));
  });

  test('a tensor beyond the largest buffer is an error that names the limit, and the device stays usable', async () => {
    const most = Number(device.backend.details.maxBufferSize);
    using huge = device.empty([most]);
    device.run('fill', { out: huge, value: 1 });
    await expect(huge.read()).rejects.toThrow(OutOfMemoryError);
    await expect(huge.read()).rejects.toThrow(/maxBufferSize/);
    using small = device.zeros([2]);
    expect(await small.read()).toEqual(new Float32Array(2));
  });

  test('shares the buffers of a device that the caller made', async () => {
    const own = await (await requestWebGpuAdapter({ gpu: await loadDawn(), software: true })).requestDevice();
    const buffer = own.createBuffer({ size: 16, usage: 0x80 | 0x08 | 0x04 });
    own.queue.writeBuffer(buffer, 0, Float32Array.of(1, 2, 3, 4));
    const shared = await openWebGpuDevice({ gpuDevice: own });
    const theirs = shared.tensorFromBuffer(buffer, [4]);
    shared.run('add', { a: theirs, b: theirs, out: theirs, alpha: 1, beta: 1 });
    expect(await theirs.read()).toEqual(Float32Array.of(2, 4, 6, 8));
    expect(() => shared.tensorFromBuffer(buffer, [5])).toThrow(/a GPUBuffer of 20 bytes/);
    theirs.dispose();
    shared.close();
    own.queue.writeBuffer(buffer, 0, Float32Array.of(5)); // neither device nor buffer was destroyed
    await own.queue.onSubmittedWorkDone();
    own.destroy();
  });

  test('pending reads reject when it is closed', async () => {
    const closing = await openWebGpuDevice({ gpu: await loadDawn(), software: true });
    const read = closing.zeros([4]).read();
    closing.close();
    await expect(read).rejects.toMatchObject({ code: 'GRPO_DISPOSED' });
  });

  test('a lost device is an error that names what it last did; nothing waits for ever, and closing works', async () => {
    const own = await (await requestWebGpuAdapter({ gpu: await loadDawn(), software: true })).requestDevice();
    const lost = await openWebGpuDevice({ gpuDevice: own });
    const a = lost.tensor([1, 2, 3], [3]);
    lost.run('add', { a, b: a, out: a, alpha: 1, beta: 1 });
    const during = a.read();
    own.destroy();
    await expect(during).rejects.toThrow(DeviceLostError);
    await expect(during).rejects.toThrow(/lost; submitted last was a batch of add/);
    await own.lost;
    lost.run('fill', { out: a, value: 1 });
    a.write([1, 2, 3]);
    for (const use of [a.read(), lost.zeros([2]).read(), lost.synchronize()]) {
      await expect(use).rejects.toThrow(DeviceLostError);
    }
    a.dispose();
    lost.close();
  });

  test('a read that the device refuses is an error, and the device stays usable', async () => {
    const own = await (await requestWebGpuAdapter({ gpu: await loadDawn(), software: true })).requestDevice();
    const shared = await openWebGpuDevice({ gpuDevice: own });
    const tensor = shared.tensor([1, 2], [2]);
    const create = own.createBuffer.bind(own);
    own.createBuffer = (descriptor) => create({ ...descriptor, usage: 0x1 | 0x80 });
    await expect(tensor.read()).rejects.toThrow(/WebGPU refused to read 8 bytes/);
    own.createBuffer = create;
    expect(await tensor.read()).toEqual(Float32Array.of(1, 2));
    tensor.dispose();
    shared.close();
    own.destroy();
  });

  test('works within the least limits that WebGPU guarantees, in tiles where a tensor is larger', async () => {
    using least = await openWebGpuDevice({ gpu: await loadDawn(), software: true, limits: 'minimum' });
    expect((least.backend as WebGpuBackend).gpuDevice.limits.maxStorageBufferBindingSize).toBe(128 * 2 ** 20);
    // 160 MiB of logits: two bindings. Rows are uniform but for one entry.
    const [rows, vocabulary] = [40, 2 ** 20];
    using logits = least.zeros([rows, vocabulary]);
    const forward = tokenLogProbs(logits, new Int32Array(rows).fill(7));
    const expected = -Math.log(vocabulary);
    for (const value of (await forward.logProbs.read()) as Float32Array) expect(value).toBeCloseTo(expected, 5);
    for (const tensor of Object.values(forward)) tensor.dispose();
    // A head of 136 MiB, in slices of the vocabulary.
    using hidden = least.zeros([2, 34]);
    using head = least.zeros([vocabulary, 34]);
    const fused = linearTokenLogProbs(hidden, head, [0, vocabulary - 1]);
    for (const value of (await fused.logProbs.read()) as Float32Array) expect(value).toBeCloseTo(expected, 5);
    for (const tensor of Object.values(fused)) tensor.dispose();
  }, 120_000);
});
