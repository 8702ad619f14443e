// Forgets 2,000 tensors of 1 MiB, half of them of recordings, without disposing of them: garbage collection frees them.
import { openDevice } from '../../../dist/backend/open-device.js';

const device = await openDevice('cpu', { threads: 1 });
for (let i = 0; i < 2000; i++) {
  if (i % 2 === 0) device.zeros([1 << 18]);
  else device.record(() => device.zeros([1 << 18])).replay();
  if (i % 20 === 0) await device.synchronize();
}
const { peakBytes } = device.memory();
for (let i = 0; i < 10 && device.memory().liveTensors > 0; i++) {
  globalThis.gc();
  await new Promise((resolve) => setTimeout(resolve, 20));
}
await device.synchronize();
console.log(JSON.stringify({ ...device.memory(), peakBytes }));
device.close();
