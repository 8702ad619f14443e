import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import {
  type AdvantageOptions,
  advantageBaselines,
  advantageScales,
  groupAdvantages,
} from '../../src/kernels/advantages.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { referenceAdvantages } from '../reference/advantages.js';
import { suiteDevice } from '../suite-device.js';

const devices = (await testDevices()).filter(({ name }) => !name.endsWith('openblas'));
const settings = advantageBaselines.flatMap((baseline) => advantageScales.map((scale) => ({ baseline, scale })));

async function run(device: Device, groups: readonly (readonly number[])[], options: AdvantageOptions = {}) {
  const groupOffsets = [0];
  for (const group of groups) groupOffsets.push(groupOffsets.at(-1)! + group.length);
  const advantages = groupAdvantages(Float32Array.from(groups.flat()), { device, groupOffsets, ...options });
  const values = [...((await advantages.read()) as Float32Array)];
  advantages.dispose();
  return values;
}

describe.each(devices)('$name', ({ open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  test.each(settings)('agrees with the reference: baseline $baseline, scale $scale', async (setting) => {
    const reward = fc.oneof(
      fc.double({ min: -5, max: 5, noNaN: true }).map(Math.fround),
      fc.constantFrom(0, 1, Number.NaN),
    );
    const groups = fc.array(fc.array(reward, { minLength: 1, maxLength: 9 }), { minLength: 1, maxLength: 6 });
    const property = fc.asyncProperty(groups, async (all) => {
      const expected = referenceAdvantages(all, { ...setting, epsilon: 1e-4 });
      const actual = await run(device, all, setting);
      expected.forEach((a, i) => {
        expect(Math.abs(actual[i]! - a)).toBeLessThanOrEqual(1e-6 * Math.max(1, Math.abs(a)));
      });
    });
    await fc.assert(property, { numRuns: 40, seed: 7 });
  });

  test('agrees with what PyTorch gives for (R - mean) / (std + 1e-4)', async () => {
    const actual = await run(device, [[1, 0, 0.25, 3]]);
    const expected = [-0.045960475944577, -0.781328091057809, -0.597486187279501, 1.424774754281887];
    expected.forEach((a, i) => {
      expect(actual[i]).toBeCloseTo(a, 6);
    });
  });

  test('a negative control: an advantage off by 2 % is noticed', async () => {
    const actual = await run(device, [[1, 0, 0.5]]);
    const [first] = referenceAdvantages([[1, 0, 0.5]], { baseline: 'mean', scale: 'group', epsilon: 1e-4 });
    expect(Math.abs(actual[0]! * 1.02 - first!)).toBeGreaterThan(1e-6);
  });

  test('equal rewards of 0.1, 0.3 and 0.7 in groups of 2 to 16 give exactly 0', async () => {
    for (const setting of settings) {
      for (const value of [0.1, 0.3, 0.7]) {
        const groups = Array.from({ length: 15 }, (_, i) => new Array<number>(i + 2).fill(value));
        for (const epsilon of [0, 1e-9, 1e-4]) {
          const actual = await run(device, [...groups, [1, 2]], { ...setting, epsilon });
          expect(actual.slice(0, -2).every((a) => a === 0)).toBe(true);
          expect(actual.slice(-2).some((a) => a !== 0)).toBe(true);
        }
      }
    }
  });

  test('an unscorable reward counts for nothing and gets 0; one scorable reward gets 0', async () => {
    for (const setting of settings) {
      const actual = await run(device, [[1, Number.NaN, 3], [Number.NaN, 5], [Number.NaN]], setting);
      expect(actual.slice(1, 2)).toEqual([0]);
      expect(actual.slice(3)).toEqual([0, 0, 0]);
      expect(actual[0]).not.toBe(0);
      // Without the batch's spread, the group is as if the reward were not there.
      if (setting.scale !== 'batch') {
        const without = await run(device, [[1, 3]], setting);
        expect([actual[0], actual[2]]).toEqual(without);
      }
    }
  });

  test('scaling the rewards of a group leaves its advantages, up to epsilon', async () => {
    const groups = [[1, 0, 0.5, 0.25]];
    const scaled = groups.map((group) => group.map((r) => r * 8));
    const options = { epsilon: 0 };
    expect(await run(device, scaled, options)).toEqual(await run(device, groups, options));
  });

  test('groupSize is the offsets of equal groups', async () => {
    const rewards = [1, 0, 0.5, 2, 3, 4];
    const advantages = groupAdvantages(rewards, { device, groupSize: 3 });
    expect([...(await advantages.read())]).toEqual(
      await run(device, [
        [1, 0, 0.5],
        [2, 3, 4],
      ]),
    );
    advantages.dispose();
  });

  test('a reward tensor with an infinity, and offsets that fall, are errors', async () => {
    const rewards = device.tensor([1, Infinity], [2]);
    const first = groupAdvantages(rewards, { groupSize: 2 });
    await expect(first.read()).rejects.toThrow(KernelError);
    await expect(first.read()).rejects.toThrow(/rewards\[1\]/);
    const offsets = device.tensor([0, 2, 1], [3], 'i32');
    const second = groupAdvantages(rewards, { groupOffsets: offsets });
    await expect(second.read()).rejects.toThrow(/groupOffsets/);
    for (const tensor of [rewards, first, offsets, second]) tensor.dispose();
  });
});
