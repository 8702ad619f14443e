// Uses every function of the addon many times, in the main thread and in a worker, and disposes of everything: what a
// leak checker runs (npm run test:sanitize).
import { once } from 'node:events';
import { isMainThread, Worker } from 'node:worker_threads';
import { loadAddon } from '../../../dist/backend/loader.js';
import { availableDevices, openDevice } from '../../../dist/backend/open-device.js';
import { openProcessGroup } from '../../../dist/distributed/open-process-group.js';

loadAddon().binding.operations();
await availableDevices();
await openDevice('cuda:7').catch(() => {});
await openDevice('cpu', { isa: 'baseline', threads: 1 }).then((device) => device.close());

const device = await openDevice('cpu', { threads: 2 });
for (let i = 0; i < 100; i++) {
  const x = device.tensor([1, 2, 3, 4], [2, 2]);
  const y = device.zeros([2, 2], 'bf16');
  const bad = device.tensor([9], [1], 'i32');
  const row = device.empty([1, 2]);
  const huge = device.empty([2 ** 48]);
  device.run('copy', { in: x, out: y });
  device.run('gatherRows', { in: x, indices: bad, out: row });
  await y.read();
  await row.read().catch(() => {});
  await huge
    .view([1])
    .read()
    .catch(() => {});
  try {
    device.tensorFromPointer(-1n, [1]);
  } catch {}
  await device.synchronize();
  device.memory();
  const recording = device.record(() =>
    device.run('add', { a: x, b: x, out: device.empty([2, 2]), alpha: 1, beta: 1 }),
  );
  recording.replay();
  recording.statistics();
  for (const tensor of [x, y, bad, row, huge, recording]) tensor.dispose();
}
// Groups of one process, where the addon has Gloo: closed, aborted with work in progress, and left open. An address that
// is not the machine's is left out: Gloo itself then leaks what it has looked up.
const known = new Map();
const store = { set: async (key, value) => known.set(key, value), get: async (key) => known.get(key) };
for (const end of ['close', 'abort', 'leave open']) {
  const options = { device, rank: 0, worldSize: 1, localRank: 0, store, interface: '127.0.0.1' };
  const group = await openProcessGroup(options).catch(() => null);
  if (!group) continue;
  const x = device.zeros([4096]);
  for (let i = 0; i < 20; i++) {
    group.allReduce(x).wait();
    group.allGather(x, x);
    group.reduceScatter(x, x);
    group.broadcast(x, 0);
  }
  await group.allGatherValues({ some: 'value' });
  x.dispose();
  group.statistics();
  if (end === 'abort') group.abort('a test');
  if (end !== 'leave open') await group.close();
}
const left = device.zeros([1 << 20]);
device.record(() => device.run('fill', { out: left, value: 1 })).replay();
const waiting = [left.read(), device.synchronize()];
device.close();
await Promise.allSettled(waiting);

if (isMainThread) await once(new Worker(new URL(import.meta.url)), 'exit');
