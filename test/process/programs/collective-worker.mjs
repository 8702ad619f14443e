// A worker whose engine waits for a collective that other ranks never join. The main thread passes its store on.
import { parentPort, workerData } from 'node:worker_threads';
import { openDevice } from '../../../dist/backend/open-device.js';
import { openProcessGroup } from '../../../dist/distributed/open-process-group.js';

const { rank, worldSize } = workerData;
const store = {
  async set(key, value) {
    parentPort.postMessage({ set: key, value });
  },
  get(key) {
    return new Promise((resolve) => {
      const listen = (message) => {
        if (message.key !== key) return;
        parentPort.off('message', listen);
        resolve(message.value);
      };
      parentPort.on('message', listen);
      parentPort.postMessage({ get: key });
    });
  },
};

const device = await openDevice('cpu', { threads: 1 });
const group = await openProcessGroup({ device, rank, worldSize, localRank: rank, store, interface: '127.0.0.1' });
const x = device.zeros([1000]);
group.allReduce(x);
x.read().catch(() => {});
setTimeout(() => parentPort.postMessage({ waiting: true }), 200);
