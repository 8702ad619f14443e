import { describe, expect, it } from 'vitest';
import { deviceOfRank, referenceDeviceOfRank } from '../../../src/distributed/rank-device.js';

const machine = (cuda: boolean, visibleDevices?: string) => ({ hasCuda: async () => cuda, visibleDevices });
const second = { localRank: 1, worldSize: 4 };

describe('the device of a rank', () => {
  it.each([
    ['auto', true, 'cuda:1'],
    ['auto', false, 'cpu'],
    ['cuda', false, 'cuda:1'],
    ['cpu', true, 'cpu'],
  ])('with %s (CUDA there: %s) is %s', async (device, cuda, expected) => {
    expect(await deviceOfRank({ device, devices: null }, second, machine(cuda))).toBe(expected);
  });

  it('is the first where a launcher shows each process a single GPU', async () => {
    expect(await deviceOfRank({ device: 'auto', devices: null }, second, machine(true, '3'))).toBe('cuda:0');
    expect(await deviceOfRank({ device: 'auto', devices: null }, second, machine(true, '2,3'))).toBe('cuda:1');
  });

  it('is what a run on one rank says', async () => {
    for (const device of ['auto', 'cuda:3', 'webgpu']) {
      expect(await deviceOfRank({ device, devices: null }, null, machine(true))).toBe(device);
    }
  });

  it('is that of its place in the list', async () => {
    const devices = ['cuda:2', 'cuda:0'];
    expect(await deviceOfRank({ device: 'auto', devices }, second, machine(true))).toBe('cuda:0');
    expect(await deviceOfRank({ device: 'auto', devices }, null, machine(true))).toBe('cuda:2');
    expect(await deviceOfRank({ device: 'auto', devices: ['cpu', 'cpu'] }, second, machine(true))).toBe('cpu');
  });

  it.each([
    ['cuda:1', null, /device: cuda:1 is one device, but the run has 4 processes; use cuda, or devices/],
    ['webgpu', null, /device: webgpu is one device.*use cpu or cuda/],
    ['cuda', ['cuda:0', 'cuda:1'], /devices: cannot be set together with device cuda/],
    ['auto', ['cuda:0'], /devices: has 1 entry, but this is local rank 1 \(the one at number 2\)/],
    ['auto', ['cuda:0', 'cuda:0'], /devices\[1\]: cuda:0 is the device of local rank 0 already/],
    ['auto', ['cuda:0', 'cpu'], /devices\[1\]: cpu cannot exchange gradients with cuda:0 of local rank 0/],
    ['auto', ['cuda', 'gpu1'], /devices\[0\]: must be cpu or cuda:<number>, got "cuda"/],
  ])('%s with the list %j is refused', async (device, devices, expected) => {
    const refused = deviceOfRank({ device, devices }, second, machine(true));
    await expect(refused).rejects.toMatchObject({ code: 'GRPO_CONFIG', message: expect.stringMatching(expected) });
  });
});

describe('the device of the reference of a rank', () => {
  it('is that of its place in the list, which ranks may share', () => {
    const referenceDevices = ['cuda:4', 'cuda:4', 'cpu'];
    expect(referenceDeviceOfRank({ referenceDevices: null, beta: 0 }, 3)).toBeNull();
    expect([0, 1, 2].map((rank) => referenceDeviceOfRank({ referenceDevices, beta: 0.1 }, rank))).toEqual(
      referenceDevices,
    );
  });

  it.each([
    [['cuda:4'], 0.1, 1, /referenceDevices: has 1 entry, but this is local rank 1/],
    [['cpu'], 0, 0, /referenceDevices: needs beta above 0/],
    [['disk'], 0.1, 0, /referenceDevices\[0\]: must be cpu or cuda:<number>, got "disk"/],
  ])('%j with beta %d is refused on local rank %i', (referenceDevices, beta, rank, expected) => {
    expect(() => referenceDeviceOfRank({ referenceDevices, beta }, rank)).toThrow(expected);
  });
});
