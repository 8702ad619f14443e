// The addon in two workers and the main thread at once: each has its own devices and gets its own results.
import { once } from 'node:events';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { openDevice } from '../../../dist/backend/open-device.js';

async function sum(value) {
  const device = await openDevice('cpu', { threads: 1 });
  let total = 0;
  for (let i = 0; i < 200; i++) {
    const x = device.zeros([64]);
    device.run('fill', { out: x, value });
    total += (await x.read()).reduce((a, b) => a + b);
    x.dispose();
  }
  device.close();
  return total;
}

if (isMainThread) {
  const workers = [1, 2].map((workerData) => new Worker(new URL(import.meta.url), { workerData }));
  const answers = await Promise.all([sum(3), ...workers.map((worker) => once(worker, 'message').then(([n]) => n))]);
  console.log(answers.join(' '));
} else {
  parentPort.postMessage(await sum(workerData));
}
