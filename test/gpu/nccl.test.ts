// NCCL itself, on the CUDA devices of this machine: one rank, and two where there are two devices.
import { expect, test } from 'vitest';
import { availableDevices } from '../../src/backend/open-device.js';
import { runRanks } from '../process/ranks.js';

const cuda = (await availableDevices()).find(({ kind }) => kind === 'cuda')!;
const devices = cuda.available ? Number(/^\d+/.exec(cuda.reason)![0]) : 0;
const cases = [
  { dtype: 'f32', counts: [1, 5, 1000] },
  { dtype: 'i32', counts: [1, 1000] },
];

for (const ranks of [1, 2]) {
  test(`runs every collective between ${ranks} rank(s)`, { timeout: 120_000 }, async ({ skip }) => {
    if (ranks > devices) skip(`${ranks} CUDA device(s) are needed; ${devices} found`);
    const ended = await runRanks('everyCollective', ranks, { argument: { device: 'cuda:{rank}', cases } });
    for (const { code, stderr, reports } of ended) {
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      expect(reports).toEqual([expect.objectContaining({ liveTensors: 0 })]);
    }
  });
}
