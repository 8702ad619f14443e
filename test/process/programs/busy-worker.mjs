import { parentPort } from 'node:worker_threads';
import { openDevice } from '../../../dist/backend/open-device.js';

const device = await openDevice('cpu', { threads: 2 });
const x = device.zeros([1 << 20]);
for (let i = 0; i < 300; i++) device.run('fill', { out: x, value: i });
const waiting = x.read();
parentPort.postMessage('working');
await waiting;
