import { describe, expect, test } from 'vitest';
import { KernelError } from '../../src/errors.js';
import { entropyThreshold } from '../../src/kernels/entropy-threshold.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { randomNumbers } from '../reference/compare.js';
import { referenceEntropyThreshold } from '../reference/policy-loss.js';
import { suiteDevice } from '../suite-device.js';

const devices = (await testDevices()).filter(({ name }) => !name.endsWith('openblas'));
const tolerance = 2e-7;
const shares = [1, 0.8, 0.5, 0.35, 0.2, 0.001];

function random(count: number, seed: number): number[] {
  const next = randomNumbers(seed);
  return Array.from({ length: count }, () => Math.fround(2 + 2 * next()));
}

describe.each(devices)('$name', ({ open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  async function run(entropy: readonly number[], topEntropyQuantile: number, mask?: readonly number[]) {
    const threshold = entropyThreshold(entropy, { device, topEntropyQuantile, mask });
    const values = await threshold.read();
    threshold.dispose();
    return [...values];
  }

  async function expectReference(entropy: readonly number[], share: number, mask?: readonly number[]) {
    const [threshold, kept] = await run(entropy, share, mask);
    const active = entropy.filter((_, t) => !mask || mask[t]);
    const truth = referenceEntropyThreshold(active, share);
    expect(Math.abs(threshold! - truth[0])).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(truth[0])));
    expect(kept).toBeCloseTo(truth[1], 6);
  }

  test.each([1, 2, 3, 7, 11, 255, 4096, 4097])('agrees with the reference on %i tokens', async (count) => {
    for (const share of shares) await expectReference(random(count, count), share);
  });

  test('a masked token does not count, whatever its entropy', async () => {
    const entropy = random(500, 5);
    const mask = entropy.map((x, t) => (t % 3 === 0 || x > 3.5 ? 0 : 1));
    const garbage = entropy.map((x, t) => (mask[t] ? x : [Number.NaN, Infinity, -Infinity, -5][t % 4]!));
    for (const share of shares) {
      await expectReference(entropy, share, mask);
      const active = entropy.filter((_, t) => mask[t]);
      expect(await run(garbage, share, mask)).toEqual(await run(active, share));
    }
  });

  test('all tokens that tie with the threshold reach it', async () => {
    expect(await run([5, 1, 5, 5, 0], 0.2)).toEqual([5, Math.fround(0.6)]);
    expect(await run([0, 0, 0, 0], 0.25)).toEqual([0, 1]);
    // Between two values; of entropies that rounding made negative too.
    expect(await run([0, 1, 2, 3], 0.5)).toEqual([1.5, 0.5]);
    expect(await run([-1e-7, 0, 1e-7], 1)).toEqual([Math.fround(-1e-7), 1]);
  });

  test('one entropy off by 2 % moves a threshold by more than the tolerance', async () => {
    const entropy = random(11, 3);
    const [threshold] = await run(entropy, 0.5);
    const changed = entropy.map((x) => (x === threshold ? Math.fround(x * 1.02) : x));
    expect(changed).not.toEqual(entropy);
    expect(Math.abs((await run(changed, 0.5))[0]! - threshold!)).toBeGreaterThan(1e3 * tolerance);
  });

  test('no token, or none that is active: 0 and 0', async () => {
    expect(await run([], 0.5)).toEqual([0, 0]);
    expect(await run([1, Number.NaN], 0.5, [0, 0])).toEqual([0, 0]);
  });

  test.each([0, -0.5, 1.5, Number.NaN])('a share of %f is refused', async (topEntropyQuantile) => {
    const [entropy, threshold] = [device.zeros([3]), device.zeros([2])];
    const fails = async () => {
      device.run('entropyThreshold', { entropy, mask: null, threshold, topEntropyQuantile });
      await threshold.read();
    };
    await expect(fails()).rejects.toThrow(KernelError);
    await expect(fails()).rejects.toThrow(/topEntropyQuantile above 0 and at most 1/);
    entropy.dispose();
    threshold.dispose();
  });
});
