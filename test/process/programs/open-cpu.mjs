// Prints the kind of device that it opens, or the error.
import { openDevice } from '../../../dist/backend/open-device.js';

try {
  console.log((await openDevice('cpu')).kind);
} catch (error) {
  console.log(error.message);
}
