import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest';
import { availableDevices, openDevice } from '../../../src/backend/open-device.js';
import { BackendUnavailableError, InvalidArgumentError, UnsupportedError } from '../../../src/errors.js';
import { compileFixture, compileLibrary } from '../../c-library.js';
import { testDevices } from '../../devices.js';

afterEach(() => vi.unstubAllEnvs());

describe("openDevice('cpu')", () => {
  test('says what it is and why', async () => {
    using device = await openDevice('cpu', { threads: 3, isa: 'baseline', matmul: 'builtin' });
    expect(device.kind).toBe('cpu');
    expect(device.why).toBe('the CPU was asked for');
    expect(device.backend.details).toEqual({ isa: 'baseline', threads: '3', matmul: 'builtin' });
    expect(device.name).toBe('cpu (baseline, 3 threads)');
  });

  test('uses the threads of the machine, or GRPO_THREADS', async () => {
    vi.stubEnv('GRPO_THREADS', '');
    using all = await openDevice('cpu');
    expect(all.backend.details.threads).toBe(String(availableParallelism()));
    vi.stubEnv('GRPO_THREADS', '1');
    using one = await openDevice('cpu');
    expect(one.backend.details.threads).toBe('1');
    vi.stubEnv('GRPO_THREADS', 'many');
    await expect(openDevice('cpu')).rejects.toThrow(/GRPO_THREADS.*"many"/);
  });

  test.each([
    [{ threads: 0 }, /threads.*0/],
    [{ threads: 1.5 }, /threads.*1.5/],
    [{ isa: 'mmx' }, /isa.*"mmx"/],
    [{ matmul: 'fast' }, /matmul.*"fast"/],
    [{ cores: 2 }, /openDevice options.*"cores"/],
  ])('refuses %o', async (options, message) => {
    await expect(openDevice('cpu', options as never)).rejects.toThrow(InvalidArgumentError);
    await expect(openDevice('cpu', options as never)).rejects.toThrow(message);
  });
});

describe('openDevice', () => {
  test("'auto' without a CUDA device takes the CPU and says why", async () => {
    vi.stubEnv('GRPO_CUDA_LIBRARY', '/nowhere/libgrpo_cuda.so');
    using device = await openDevice();
    expect(device.kind).toBe('cpu');
    expect(device.why).toMatch(/^auto chose the CPU: \/nowhere\/libgrpo_cuda\.so: .*No such file/);
  });

  test("'auto' with options for the CPU takes the CPU and says why", async () => {
    using device = await openDevice('auto', { matmul: 'builtin' });
    expect(device.why).toMatch(/options for the CPU/);
  });

  test.each(['gpu', 'cpu:1', 'cuda:', 'cuda:-1', '', null])('refuses the name %s', async (name) => {
    await expect(openDevice(name as string)).rejects.toThrow(InvalidArgumentError);
  });

  test("refuses options for the CPU with 'cuda'", async () => {
    await expect(openDevice('cuda', { threads: 2 })).rejects.toThrow(/options.*"threads"/);
  });

  test("refuses options for the CPU with 'webgpu', and a name that no adapter has", async () => {
    await expect(openDevice('webgpu', { threads: 2 })).rejects.toThrow(/options.*"threads"/);
    await expect(openDevice('webgpu:no such adapter')).rejects.toThrow(BackendUnavailableError);
    await expect(openDevice('webgpu:')).rejects.toThrow(InvalidArgumentError);
  });
});

describe('the CUDA library', () => {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-cuda-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  async function openWith(library: string): Promise<BackendUnavailableError> {
    vi.stubEnv('GRPO_CUDA_LIBRARY', library);
    const error = await openDevice('cuda').catch((e) => e);
    expect(error).toBeInstanceOf(BackendUnavailableError);
    return error;
  }

  const compile = (name: string, code: string) => compileLibrary(folder, name, code);

  test('that is missing', async () => {
    const path = join(folder, 'missing.so');
    const error = await openWith(path);
    expect(error.attempts).toEqual([{ path, stage: 'load', message: expect.stringContaining('No such file') }]);
    expect(error.message).toContain('GRPO_CUDA_LIBRARY');
  });

  test('that is some other library', async () => {
    const error = await openWith(compile('other.so', 'int other(void) { return 1; }'));
    expect(error.attempts[0]).toMatchObject({ stage: 'abi', message: 'it does not export grpo_cuda_backend' });
  });

  test.each([
    ['older.so', '{GRPO_ABI_VERSION + 1, sizeof(grpo_backend)}', /expected ABI version 4 but it has 5/],
    ['smaller.so', '{GRPO_ABI_VERSION, 16}', /expected a table of \d+ bytes but it has 16/],
  ])('that was made for another addon (%s)', async (name, table, message) => {
    const code = `#include "grpo.h"
      static const grpo_backend table = ${table};
      const grpo_backend* grpo_cuda_backend(void) { return &table; }`;
    const error = await openWith(compile(name, code));
    expect(error.attempts[0]).toMatchObject({ stage: 'abi', message: expect.stringMatching(message) });
  });

  test('that lacks an operation', async () => {
    const code = `#include "grpo.h"
      static const grpo_backend table = {GRPO_ABI_VERSION, sizeof(grpo_backend), "cuda"};
      const grpo_backend* grpo_cuda_backend(void) { return &table; }`;
    const error = await openWith(compile('incomplete.so', code));
    expect(error.attempts[0]).toMatchObject({ stage: 'abi', message: expect.stringMatching(/no function/) });
  });

  describe('that works', () => {
    async function openFake(name = 'cuda') {
      vi.stubEnv('GRPO_CUDA_LIBRARY', compileFixture(folder, 'fake_backend'));
      return openDevice(name);
    }

    test("is chosen by 'auto', by name and by ordinal", async () => {
      using first = await openFake('auto');
      using second = await openFake('cuda:1');
      expect(first.name).toBe('cuda:0 (fake 0)');
      expect(first.why).toBe('auto chose CUDA: 2 CUDA device(s) found');
      expect(second.name).toBe('cuda:1 (fake 1)');
      expect((await availableDevices())[1]).toMatchObject({ kind: 'cuda', available: true });
    });

    test('but not for that ordinal', async () => {
      const error = await openFake('cuda:2').catch((e) => e);
      expect(error).toBeInstanceOf(BackendUnavailableError);
      expect(error.attempts).toEqual([{ path: 'cuda:2', stage: 'device', message: 'there is no device 2' }]);
    });

    test('reads and writes memory of somebody else in place', async () => {
      using device = await openFake();
      const address = BigInt(device.backend.details.address!);
      using theirs = device.tensorFromPointer(address, [4]);
      using copy = device.empty([4]);
      device.run('copy', { in: theirs, out: copy });
      expect(await copy.read()).toEqual(Float32Array.of(1, 2, 3, 4));
      device.run('fill', { out: theirs.view([2], 2), value: 9 });
      expect(await theirs.read()).toEqual(Float32Array.of(1, 2, 9, 9));
      theirs.write([1, 2, 3, 4]);
      await device.synchronize();
    });

    test('names an operation that it does not have', async () => {
      using device = await openFake();
      const out = device.zeros([4]);
      device.run('add', { a: out, b: out, out, alpha: 1, beta: 1 });
      await expect(out.read()).rejects.toThrow(new UnsupportedError('add on a fake device'));
    });

    test('and is lost: everything after that fails, in this device only', async () => {
      using device = await openFake();
      using healthy = await openFake();
      const [before, hit, after] = [device.zeros([4]), device.zeros([4]), healthy.zeros([4])];
      await before.read();
      device.run('fill', { out: hit, value: 13 });
      for (const use of [
        () => hit.read(),
        () => before.read(),
        () => device.zeros([4]).read(),
        () => device.synchronize(),
      ]) {
        await expect(use()).rejects.toMatchObject({
          code: 'GRPO_DEVICE_LOST',
          message: 'the fake device fell off the bus',
        });
      }
      expect(await after.read()).toEqual(new Float32Array(4));
    });
  });

  test('that finds no device', async () => {
    const code = readFileSync(new URL('../../fixtures/fake_backend.c', import.meta.url), 'utf8');
    vi.stubEnv('GRPO_CUDA_LIBRARY', compile('none.so', code.replace('return 2;', 'return 0;')));
    using device = await openDevice('auto');
    expect(device.kind).toBe('cpu');
    expect(device.why).toMatch(/^auto chose the CPU: the driver reports no CUDA device; /);
  });
});

describe('availableDevices', () => {
  test('lists every kind with a reason, and never throws', async () => {
    vi.stubEnv('GRPO_CUDA_LIBRARY', '/nowhere/libgrpo_cuda.so');
    const [cpu, cuda, webgpu] = await availableDevices();
    expect(cpu).toMatchObject({ kind: 'cpu', available: true, attempts: [] });
    expect(cuda).toMatchObject({ kind: 'cuda', available: false, reason: expect.stringContaining('/nowhere/') });
    expect(cuda!.attempts).toHaveLength(1);
    expect(webgpu).toMatchObject({ kind: 'webgpu', reason: expect.stringMatching(/./) });
  });
});

describe('the devices that suites run on', () => {
  test('are the CPU with each instruction set and matrix product of this machine', async () => {
    const devices = await testDevices();
    expect(devices.map((d) => d.name)).toContain('cpu baseline builtin');
    for (const { name, open } of devices.filter(({ name }) => name.startsWith('cpu'))) {
      using device = await open();
      const { isa, matmul } = device.backend.details;
      expect(`cpu ${isa} ${matmul!.split(' ')[0]}`).toBe(name);
    }
  });
});
