import { openDevice } from '../src/backend/open-device.js';
import { openProcessGroup } from '../src/distributed/open-process-group.js';
import type { ProcessGroup, Store } from '../src/distributed/process-group.js';
import { singleProcessGroup } from '../src/distributed/single-process-group.js';
import type { Device } from '../src/tensor.js';

/**
 * Runs `work` on some ranks of a group and gives what each returns. The ranks share this process, but each has a device, and
 * so an engine, of its own.
 */
export async function inRanks<T>(
  worldSize: number,
  work: (device: Device, group: ProcessGroup) => Promise<T>,
): Promise<T[]> {
  const store = memoryStore();
  return Promise.all(
    Array.from({ length: worldSize }, async (_, rank) => {
      const device = await openDevice('cpu', { threads: 1 });
      try {
        const options = { device, rank, worldSize, localRank: rank, store, timeoutSeconds: 60 };
        const group =
          worldSize === 1 ? singleProcessGroup(device) : await openProcessGroup({ ...options, interface: '127.0.0.1' });
        const result = await work(device, group);
        await group.close();
        return result;
      } finally {
        device.close();
      }
    }),
  );
}

function memoryStore(): Store {
  const values = new Map<string, Uint8Array>();
  const waiting = new Map<string, ((value: Uint8Array) => void)[]>();
  return {
    async set(key, value) {
      values.set(key, value);
      for (const resolve of waiting.get(key) ?? []) resolve(value);
    },
    get(key) {
      const known = values.get(key);
      if (known) return Promise.resolve(known);
      return new Promise((resolve) => waiting.set(key, [...(waiting.get(key) ?? []), resolve]));
    },
  };
}
