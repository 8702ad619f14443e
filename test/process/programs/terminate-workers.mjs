// Terminates 50 workers one after the other, each while its engine works and a read waits.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

for (let i = 0; i < 50; i++) {
  const worker = new Worker(new URL('./busy-worker.mjs', import.meta.url));
  await once(worker, 'message');
  await worker.terminate();
}
console.log('50 workers terminated');
