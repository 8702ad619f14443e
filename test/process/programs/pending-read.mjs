// A read in progress keeps the process alive until it is done.
import { openDevice } from '../../../dist/backend/open-device.js';

const device = await openDevice('cpu', { threads: 1 });
const x = device.zeros([1 << 24]);
for (let i = 1; i <= 5; i++) device.run('fill', { out: x, value: i });
x.view([1])
  .read()
  .then((values) => console.log(`read ${values[0]}`));
