// What keeps the memory of somebody else alive: prints, step by step, whether it is still held. The library that
// GRPO_CUDA_LIBRARY names gives four floats; the CPU works on them.
import { setTimeout } from 'node:timers/promises';
import { openDevice } from '../../../dist/backend/open-device.js';

const owner = await openDevice('cuda');
const address = BigInt(owner.backend.details.address);

async function collect(turns) {
  for (let i = 0; i < turns; i++) {
    await setTimeout(5);
    globalThis.gc();
  }
}

function adopt(device) {
  const keepAlive = { owns: 'the memory' };
  return { tensor: device.tensorFromPointer(address, [4], 'f32', { keepAlive }), keeper: new WeakRef(keepAlive) };
}
const report = (step, keeper) => console.log(`${step}: ${keeper.deref() ? 'held' : 'free'}`);

const device = await openDevice('cpu', { threads: 1 });
{
  const unheld = new WeakRef({ owns: 'the memory' });
  const { tensor, keeper } = adopt(device);
  const busy = device.zeros([1 << 24]);
  for (let i = 0; i < 100; i++) device.run('fill', { out: busy, value: i });
  device.run('fill', { out: tensor, value: 1 });
  tensor.dispose();
  await collect(2);
  report('something that nobody keeps', unheld);
  report('disposed of, with queued work', keeper);
  await device.synchronize();
  await collect(10);
  report('disposed of, and the work has run', keeper);
}
{
  let { tensor, keeper } = adopt(device);
  const view = tensor.view([2]);
  tensor.dispose();
  await collect(10);
  report('a view in use', keeper);
  view.dispose();
  tensor = adopt(device);
  keeper = tensor.keeper;
  await collect(10);
  report('a tensor in use', keeper);
  tensor = null;
  await collect(20);
  await device.synchronize();
  await collect(20);
  report('forgotten', keeper);
}
{
  const { tensor, keeper } = adopt(device);
  device.run('fill', { out: tensor, value: 2 });
  device.close();
  await collect(20);
  report('closed', keeper);
}
owner.close();
