import { existsSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { glooLibraryPaths, loadAddon } from '../../../src/backend/loader.js';
import { openDevice } from '../../../src/backend/open-device.js';
import { openProcessGroup } from '../../../src/distributed/open-process-group.js';
import type { ProcessGroup, ProcessGroupOptions, Store } from '../../../src/distributed/process-group.js';
import { singleProcessGroup } from '../../../src/distributed/single-process-group.js';
import { BackendUnavailableError, DisposedError, InvalidArgumentError, UnsupportedError } from '../../../src/errors.js';
import type { Device } from '../../../src/tensor.js';

// Between processes: test/process/collectives.test.ts. Here one process, and what is refused.

const hasGloo = glooLibraryPaths(loadAddon().path).some((path) => existsSync(path));

function memoryStore(): Store {
  const known = new Map<string, Uint8Array>();
  return {
    set: async (key, value) => void known.set(key, value),
    get: async (key) => known.get(key)!,
  };
}

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
});
afterEach(() => vi.unstubAllEnvs());
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const options = (): ProcessGroupOptions => ({
  device,
  rank: 0,
  worldSize: 1,
  localRank: 0,
  store: memoryStore(),
  interface: '127.0.0.1',
});

const openings: [string, () => Promise<ProcessGroup>][] = [['single', async () => singleProcessGroup(device)]];
if (hasGloo) openings.push(['gloo', () => openProcessGroup(options())]);

describe.each(openings)('a group of one process (%s)', (engine, open) => {
  test('gives back what it is given', async () => {
    const group = await open();
    expect(group).toMatchObject({ rank: 0, worldSize: 1, localRank: 0, engine, failure: null });
    const x = device.tensor([1, 2, 3], [3]);
    const y = device.zeros([3]);
    const z = device.zeros([3]);
    group.allReduce(x).wait();
    group.broadcast(x, 0);
    group.reduce(x, 0);
    group.reduceScatter(x, y);
    group.allGather(y, z);
    expect([...(await z.read())]).toEqual([1, 2, 3]);
    expect(await group.allGatherValues({ reward: 0.5, text: 'é' })).toEqual([{ reward: 0.5, text: 'é' }]);
    await group.barrier();
    expect(group.statistics()).toMatchObject({ bytesSent: 0 });
    expect(group.statistics().collectives).toBeGreaterThanOrEqual(4);
    await group.close();
    await group.close();
    expect(() => group.allReduce(x)).toThrow(DisposedError);
    for (const tensor of [x, y, z]) tensor.dispose();
  });

  test('refuses tensors that do not fit', async () => {
    const group = await open();
    const x = device.zeros([4, 4]);
    const other = device.zeros([16], 'bf16');
    const column = x.view([4, 2], 0, 4);
    const refused = (run: () => unknown, text: string) => {
      expect(run).toThrow(InvalidArgumentError);
      expect(run).toThrow(text);
    };
    refused(() => group.allReduce(column), 'allReduce: tensor');
    refused(() => group.allGather(x, other), 'dtype f32');
    refused(() => group.reduceScatter(x, column), 'contiguous');
    refused(() => group.broadcast(x, 1), 'root');
    refused(() => group.reduce(x, 1), 'root');
    const short = device.zeros([15]);
    refused(() => group.allGather(x, short), '1 times the 16 elements of the input');
    for (const tensor of [x, other, column, short]) tensor.dispose();
    await group.close();
  });

  test('is dead after abort', async () => {
    const group = await open();
    group.abort('a test said so');
    group.abort('and again');
    expect(group.failure).toMatchObject({ code: 'GRPO_COLLECTIVE', reason: 'aborted', rank: 0, worldSize: 1 });
    expect(group.failure!.message).toContain('a test said so');
    const x = device.zeros([1]);
    const fails = async () => {
      group.allReduce(x);
      await x.read();
    };
    await expect(fails()).rejects.toMatchObject({ message: group.failure!.message });
    x.dispose();
    await group.close();
    expect(group.failure!.message).toContain('a test said so');
  });
});

describe('openProcessGroup', () => {
  test.each([
    [{ worldSize: 0 }, 'worldSize'],
    [{ rank: 1 }, 'rank'],
    [{ rank: -1 }, 'rank'],
    [{ localRank: 1.5 }, 'localRank'],
    [{ timeoutSeconds: 0 }, 'timeoutSeconds'],
    [{ engine: 'mpi' as 'gloo' }, 'engine'],
  ])('refuses %o', async (wrong, name) => {
    const error = await openProcessGroup({ ...options(), ...wrong }).catch((e) => e);
    expect(error).toBeInstanceOf(InvalidArgumentError);
    expect(error.message).toContain(name);
  });

  test('has no NCCL for a CPU', async () => {
    const error = await openProcessGroup({ ...options(), engine: 'nccl' }).catch((e) => e);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect(error.message).toContain('Use gloo');
  });

  test('says what to install when the addon was built without Gloo', async () => {
    vi.stubEnv('GRPO_GLOO_LIBRARY', '/nowhere/libgrpo_gloo.so');
    const error = await openProcessGroup(options()).catch((e) => e);
    expect(error).toBeInstanceOf(BackendUnavailableError);
    expect(error.attempts).toEqual([{ path: '/nowhere/libgrpo_gloo.so', stage: 'load', message: expect.any(String) }]);
    expect(error.message).toContain('sudo apt-get install libgloo-dev && npm run build:native');
  });

  test.skipIf(!hasGloo)('names an interface that does not exist', async () => {
    const error = await openProcessGroup({ ...options(), interface: '203.0.113.1' }).catch((e) => e);
    expect(error).toBeInstanceOf(BackendUnavailableError);
    expect(error.message).toContain('Correct the option interface');
  });

  test.skipIf(!hasGloo)('passes on what the store reports', async () => {
    const store: Store = { set: async () => {}, get: () => Promise.reject(new Error('the store is gone')) };
    await expect(openProcessGroup({ ...options(), store })).rejects.toThrow('the store is gone');
  });
});
