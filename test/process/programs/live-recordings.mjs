// Leaves recordings behind whose replays are queued, on a device that it closes and on one that it does not.
import { busyDevice } from './busy-device.mjs';

for (const close of [true, false]) {
  const { device, x, y } = await busyDevice();
  const recording = device.record(() => {
    const sum = device.empty([1 << 24]);
    device.run('add', { a: x, b: y, out: sum, alpha: 1, beta: 1 });
  });
  recording.replay();
  globalThis.kept = [globalThis.kept, recording];
  if (close) device.close();
}
console.log('end of program');
