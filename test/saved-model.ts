import { expect } from 'vitest';
import { openDevice } from '../src/backend/open-device.js';
import '../src/platform/node.js';
import { tinyPolicy } from './tiny-model.js';

/** Writes a tiny model of random weights, always the same, as the folder that programs load. */
export async function saveTinyModel(folder: string): Promise<void> {
  const device = await openDevice('cpu', { threads: 1 });
  const policy = tinyPolicy({ device, seed: 3 });
  await policy.save(folder);
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
}
