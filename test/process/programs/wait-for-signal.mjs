// Works until a signal comes; nobody handles it.
import { busyDevice } from './busy-device.mjs';

const { y } = await busyDevice();
console.log('working');
await y.read();
