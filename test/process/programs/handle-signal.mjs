// Closes its device when SIGINT comes; the read that waits rejects and the program ends by itself.
import { busyDevice } from './busy-device.mjs';

const { device, y } = await busyDevice();
process.once('SIGINT', () => device.close());
console.log('working');
await y.read().catch((error) => console.log(error.code));
