// process.exit() while the engine works and a read waits.
import { busyDevice } from './busy-device.mjs';

const { y } = await busyDevice();
y.read().then(() => console.log('should not be read'));
process.exit(3);
