// Leaves a device, tensors and queued work behind.
import { busyDevice } from './busy-device.mjs';

const { device } = await busyDevice();
const small = device.tensor([1, 2, 3], [3]);
globalThis.kept = small;
console.log('end of program');
