// A CPU device with some seconds of queued work, and tensors that nobody disposes of.
import { openDevice } from '../../../dist/backend/open-device.js';

export async function busyDevice() {
  const device = await openDevice('cpu', { threads: 2 });
  const x = device.zeros([1 << 24]);
  const y = device.zeros([1 << 24]);
  for (let i = 0; i < 300; i++) device.run('copy', { in: x, out: y });
  return { device, x, y };
}
