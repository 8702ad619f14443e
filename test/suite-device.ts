import { afterAll, beforeAll, expect } from 'vitest';
import type { Device } from '../src/tensor.js';

/** Opens a device for the tests of a suite, hands it to `use`, and checks in the end that they have left nothing on it. */
export function suiteDevice(open: () => Promise<Device>, use: (device: Device) => void): void {
  let device: Device;
  beforeAll(async () => {
    device = await open();
    use(device);
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });
}
