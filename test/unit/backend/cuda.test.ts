// What only the CUDA library does, on its stand-in for the processor (test/cuda-on-cpu).
import { existsSync } from 'node:fs';
import process from 'node:process';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { availableDevices } from '../../../src/backend/open-device.js';
import { KernelError, OutOfMemoryError, UnsupportedError } from '../../../src/errors.js';
import type { Device } from '../../../src/tensor.js';
import { cudaOnCpu, openCudaOnCpu } from '../../devices.js';

test('continuous integration has the stand-in for CUDA', () => {
  if (process.env.CI) expect(existsSync(cudaOnCpu.library)).toBe(true);
});

describe.skipIf(!existsSync(cudaOnCpu.library))('the CUDA library', () => {
  const opened: Device[] = [];
  const open = async (name = 'cuda') => {
    const device = await openCudaOnCpu({ name });
    opened.push(device);
    return device;
  };
  afterEach(() => {
    for (const device of opened.splice(0)) device.close();
    vi.unstubAllEnvs();
  });

  test('tells what the device is and what multiplies its matrices', async () => {
    const device = await open();
    expect(device.name).toBe('cuda:0 (CUDA on the CPU)');
    expect(device.backend.details).toMatchObject({ capability: '9.0', driver: '13.0' });
    expect(device.backend.details.matmul).toMatch(/^cuBLAS 13\.0 \(.*libcublas\.so\)$/);
  });

  test.each([
    ['GRPO_CUDA_ON_CPU_DRIVER', '12040', /the driver is for CUDA 12\.4, and this library was built with 13\.0: update/],
    ['GRPO_CUDA_ON_CPU_DRIVER', '0', /there is no driver of NVIDIA/],
  ])('says what is wrong with the driver where %s is %s', async (variable, value, message) => {
    vi.stubEnv(variable, value);
    const failure = { attempts: [{ path: 'cuda:0', stage: 'device', message: expect.stringMatching(message) }] };
    await expect(open()).rejects.toMatchObject(failure);
    vi.stubEnv('GRPO_CUDA_LIBRARY', cudaOnCpu.library);
    expect((await availableDevices())[1]).toMatchObject({ available: false, reason: expect.stringMatching(message) });
  });

  test('says that it was built for other devices, and how to build it', async () => {
    vi.stubEnv('GRPO_CUDA_ON_CPU_NO_CODE', '1');
    const message =
      'this library has no code for CUDA on the CPU of compute capability 9.0 (no kernel image is available for ' +
      'execution on the device): build it with GRPO_CUDA_ARCHITECTURES=90';
    await expect(open()).rejects.toMatchObject({ attempts: [{ message }] });
  });

  test('says how many devices the process sees', async () => {
    vi.stubEnv('CUDA_VISIBLE_DEVICES', '3,4');
    const message =
      'this process sees 2 CUDA device(s), with CUDA_VISIBLE_DEVICES=3,4, and number 7 was asked for (numbers start at 0)';
    await expect(open('cuda:7')).rejects.toMatchObject({ attempts: [{ message }] });
  });

  test('copies rows that are further apart than CUDA copies at once', async () => {
    const device = await open();
    const [apart, together] = [device.empty([2, 2 ** 29 + 4]), device.tensor([1, 2, 3, 4, 5, 6], [2, 3])];
    const part = apart.view([2, 3], 2, 2 ** 29 + 4);
    const back = device.empty([2, 3]);
    device.run('copy', { in: together, out: part });
    device.run('copy', { in: part, out: back });
    expect([...(await back.read())]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test('what is uploaded stays what it was, however much waits to be copied', async () => {
    const device = await open();
    const values = Int32Array.from({ length: 100 }, (_, i) => i);
    const tensors = Array.from(values, (i) => device.tensor(new Int32Array(50_000 + i).fill(i), [50_000 + i], 'i32'));
    const large = device.tensor(new Int32Array(1 << 20).fill(7), [1 << 20], 'i32');
    for (const [i, tensor] of tensors.entries()) expect((await tensor.read()).every((value) => value === i)).toBe(true);
    expect((await large.read()).every((value) => value === 7)).toBe(true);
  });

  test('reserves no memory and copies nothing from the host while its caller captures the stream', async () => {
    const device = await open();
    const x = device.tensor(new Float32Array(1000).fill(2), [1000]);
    const norm = device.empty([1]);
    await device.synchronize();
    vi.stubEnv('GRPO_CUDA_ON_CPU_CAPTURES', '1');
    device.run('globalNorm', { in: x, norm });
    for (const use of [() => norm.read(), () => device.empty([4]).read(), () => device.tensor([1], [1]).read()]) {
      await expect(use()).rejects.toThrow(UnsupportedError);
      await expect(use()).rejects.toThrow(/operation not permitted when stream is capturing/);
    }
    x.write(new Float32Array(1000).fill(3));
    await expect(x.read()).rejects.toThrow(/copying from the host: operation not permitted/);
    vi.unstubAllEnvs();
    x.write(new Float32Array(1000).fill(3));
    device.run('globalNorm', { in: x, norm });
    expect((await norm.read())[0]).toBeCloseTo(3 * Math.sqrt(1000), 3);
  });

  test('works without cuBLAS, and a product says what to install', async () => {
    const device = await openCudaOnCpu({ cublas: '/nowhere/libcublas.so' });
    opened.push(device);
    const x = device.tensor([1, 2, 3, 4], [2, 2]);
    const sum = device.empty([2, 2]);
    device.run('add', { a: x, b: x, out: sum, alpha: 1, beta: 1 });
    expect([...(await sum.read())]).toEqual([2, 4, 6, 8]);
    device.run('matmul', { a: x, b: x, out: sum, transposeA: 0, transposeB: 0, accumulate: 0 });
    const failure = sum.read();
    await expect(failure).rejects.toThrow(UnsupportedError);
    await expect(failure).rejects.toThrow(
      /cuBLAS was not found \(tried \/nowhere\/libcublas\.so\); install .* GRPO_CUBLAS_LIBRARY/,
    );
  });

  test('a lack of memory names the request, what is live and the largest tensors, and the device goes on', async () => {
    vi.stubEnv('GRPO_CUDA_ON_CPU_MEMORY', String(96 << 20));
    const device = await open();
    const kept = device.tensor(new Float32Array(1 << 20).fill(2), [1 << 20]);
    const much = device.empty([1 << 25]);
    const failure = much.read();
    await expect(failure).rejects.toThrow(OutOfMemoryError);
    await expect(failure).rejects.toThrow(/128\.00 MiB; 4\.00 MiB are live in 1 allocation/);
    much.dispose();
    const sum = device.empty([1 << 20]);
    device.run('add', { a: kept, b: kept, out: sum, alpha: 1, beta: 1 });
    expect((await sum.read()).every((x) => x === 4)).toBe(true);
  });

  test('scratch space that there is no memory for fails its operation only', async () => {
    vi.stubEnv('GRPO_CUDA_ON_CPU_MEMORY', String(48 << 20));
    // One that no test had before: a device frees its memory some time after it was closed.
    const device = await open('cuda:1');
    const [rows, width, vocab] = [64, 4, 100_000];
    const hidden = device.tensor(new Float32Array(rows * width).fill(1), [rows, width]);
    const weight = device.tensor(new Float32Array(vocab * width).fill(1), [vocab, width]);
    const targets = device.tensor(new Int32Array(rows), [rows], 'i32');
    const logProbs = device.empty([rows]);
    const inputs = { hidden, weight, targets, logProbs, temperature: 1, softcap: 0 };
    device.run('linearTokenLogProbs', { ...inputs, workspaceBytes: 1 << 26 });
    await expect(logProbs.read()).rejects.toThrow(OutOfMemoryError);
    device.run('linearTokenLogProbs', { ...inputs, workspaceBytes: 1 << 22 });
    for (const x of await logProbs.read()) expect(x).toBeCloseTo(-Math.log(vocab), 5);
  });

  test('indices are checked as they are now, not as they were uploaded', async () => {
    const device = await open();
    const table = device.tensor([1, 2, 3], [3, 1]);
    const ids = device.tensor([0, 2], [2], 'i32');
    const out = device.empty([2, 1]);
    const lookUp = () => {
      device.run('embedding', { table, ids, out });
      return out.read();
    };
    expect([...(await lookUp())]).toEqual([1, 3]);
    device.run('fill', { out: ids, value: 1 });
    expect([...(await lookUp())]).toEqual([2, 2]);
    device.run('fill', { out: ids, value: 3 });
    await expect(lookUp()).rejects.toThrow(KernelError);
    ids.write([1, 7]);
    await expect(lookUp()).rejects.toThrow(/embedding: ids\[1\]: expected an index from 0 to 2 but received 7/);
    ids.write([1, 0]);
    expect([...(await lookUp())]).toEqual([2, 1]);
    // A part of the memory, by a view.
    ids.view([1], 1).write([5]);
    await expect(lookUp()).rejects.toThrow(/ids\[1\]: .* received 5/);
  });

  test('a cache whose keys and values differ in dtype is refused', async () => {
    const device = await open();
    const queries = device.tensor([1, 2], [1, 2]);
    const [keyCache, valueCache] = [device.tensor([1, 2], [1, 2], 'bf16'), device.tensor([1, 2], [1, 2])];
    const out = device.empty([1, 2]);
    const segments = device.tensor([0, 1, 0, 0], [1, 4], 'i32');
    device.run('cachedAttention', { queries, keyCache, valueCache, segments, out, headDim: 2, scale: 1, maxLength: 1 });
    const failure = out.read();
    await expect(failure).rejects.toThrow(UnsupportedError);
    await expect(failure).rejects.toThrow(/keyCache and valueCache of one dtype/);
  });

  test('two devices keep their memory apart', async () => {
    const [first, second] = [await open(), await openCudaOnCpu({ name: 'cuda:1' })];
    opened.push(second);
    const x = first.tensor(new Float32Array(1000), [1000]);
    await first.synchronize();
    await second.synchronize();
    expect([first.memory().liveBytes, second.memory().liveBytes]).toEqual([4000, 0]);
    x.dispose();
  });
});
