// Ends while a device is open and another is being closed.
import { openDevice } from '../../../dist/index.js';

await openDevice('cuda:0');
(await openDevice('cuda:1')).close();
process.exit(3);
