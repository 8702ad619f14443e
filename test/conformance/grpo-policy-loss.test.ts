import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  klEstimators,
  lossTypes,
  type PolicyLossInputs,
  type PolicyLossOptions,
  policyLoss,
  readPolicyMetrics,
} from '../../src/kernels/policy-loss.js';
import { mergePolicyStatistics, policyMetrics } from '../../src/kernels/policy-statistics.js';
import type { Device } from '../../src/tensor.js';
import { testDevices } from '../devices.js';
import { randomNumbers, relativeError } from '../reference/compare.js';
import { type ReferenceTokens, referenceEntropyThreshold, referencePolicyLoss } from '../reference/policy-loss.js';
import { suiteDevice } from '../suite-device.js';

type Data = ReferenceTokens;

interface FixtureCase {
  options: PolicyLossOptions & { withoutOld?: boolean; withRollout?: boolean };
  loss: number;
  gradLogProbs: number[];
  gradEntropy: number[] | null;
  metrics: Record<string, number>;
}

const fixture = new URL('../fixtures/kernels/policy-loss.json', import.meta.url);
const { data, cases } = JSON.parse(readFileSync(fixture, 'utf8')) as {
  data: Required<Data>;
  cases: FixtureCase[];
};
const devices = (await testDevices({ features: true })).filter(({ name }) => !name.endsWith('openblas'));
const tolerance = 2e-6;

async function run(device: Device, { logProbs, ...rest }: Data, options: PolicyLossOptions) {
  const lp = device.tensor(logProbs, [logProbs.length]);
  const threshold = rest.entropyThreshold ? device.tensor(rest.entropyThreshold, [2]) : null;
  const result = policyLoss({ logProbs: lp, ...rest, entropyThreshold: threshold } as PolicyLossInputs, options);
  const read = {
    loss: ((await result.loss.read()) as Float32Array)[0]!,
    gradLogProbs: (await result.gradLogProbs.read()) as Float32Array,
    gradEntropy: result.gradEntropy && ((await result.gradEntropy.read()) as Float32Array),
    metrics: await result.metrics.read(),
    statistics: await result.statistics.read(),
  };
  result.dispose();
  threshold?.dispose();
  lp.dispose();
  return read;
}

/** Ragged sequences, an empty one among them, some tokens masked; float32 numbers. */
function randomData(seed: number, lengths = [4, 0, 9, 1, 6], spread = 0.3): Required<Omit<Data, 'entropyThreshold'>> {
  const next = randomNumbers(seed);
  const count = lengths.reduce((sum, length) => sum + length, 0);
  const list = (n: number, f: () => number) => Array.from({ length: n }, () => Math.fround(f()));
  const logProbs = list(count, () => -1.5 + next());
  const near = (scale: number) => logProbs.map((lp) => Math.fround(lp + next() * scale));
  const offsets = [0];
  for (const length of lengths) offsets.push(offsets.at(-1)! + length);
  return {
    logProbs,
    oldLogProbs: near(spread),
    refLogProbs: near(spread),
    rolloutLogProbs: near(spread),
    entropy: list(count, () => 1 + next()),
    advantages: list(lengths.length, () => next() * 2),
    mask: list(count, () => (next() > -0.6 ? 1 : 0)),
    sequenceOffsets: offsets,
  };
}

function expectClose(actual: Awaited<ReturnType<typeof run>>, truth: ReturnType<typeof referencePolicyLoss>) {
  expect(Math.abs(actual.loss - truth.loss)).toBeLessThanOrEqual(tolerance * Math.max(1, Math.abs(truth.loss)));
  expect(relativeError(actual.gradLogProbs, truth.gradLogProbs)).toBeLessThanOrEqual(tolerance);
  if (actual.gradEntropy) expect(relativeError(actual.gradEntropy, truth.gradEntropy)).toBeLessThanOrEqual(tolerance);
}

/** Options with each loss type that need nothing else. */
const plain = (lossType: (typeof lossTypes)[number]): PolicyLossOptions => ({
  lossType,
  ...(lossType === 'cispo' && { epsilonHigh: 1.1 }),
  ...(lossType === 'dr_grpo' && { maxCompletionLength: 12 }),
});
const levels = (lossType: string) => (lossType === 'vespo' ? (['token'] as const) : (['token', 'sequence'] as const));
const everyKind = lossTypes.flatMap((lossType) =>
  levels(lossType).map((importanceSamplingLevel) => ({ ...plain(lossType), importanceSamplingLevel })),
);
const label = (options: PolicyLossOptions) => JSON.stringify(options).replace(/["{}]/g, '');

describe.each(devices)('$name', ({ open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  describe("agrees with TRL's own loss", () => {
    test.each(cases.map((c) => ({ ...c, title: label(c.options) })))('$title', async (c) => {
      const { withoutOld, withRollout, ...options } = c.options;
      const inputs: Data = {
        ...data,
        ...(withoutOld && { oldLogProbs: undefined }),
        ...(!withRollout && !options.rolloutCorrection && { rolloutLogProbs: undefined }),
      };
      const actual = await run(device, inputs, options);
      const truth = { ...c, gradEntropy: c.gradEntropy ?? [] };
      expectClose(actual, truth);
      const { metrics } = actual;
      const ours: Record<string, string> = { cispo_clip_ratio: 'clip_ratio/high_mean' };
      // The loss without the entropy bonus, and a mean over sequences: not among our metrics.
      const { policy_loss: _, 'vespo/phi_seq_mean': __, ...comparable } = c.metrics;
      for (const [name, value] of Object.entries(comparable)) {
        // At sequence level TRL's clip ratios are means over sequences, ours over tokens.
        const differs = options.importanceSamplingLevel === 'sequence' && /clip.*(mean|ratio)$/.test(name);
        if (!differs) expect(metrics[ours[name] ?? name], name).toBeCloseTo(value, 6);
      }
      expect(metrics.entropy).toBeCloseTo(c.metrics.entropy!, 6);
    });
  });

  describe('agrees with the reference', () => {
    const extras: PolicyLossOptions[] = [
      {},
      { beta: 0.1, entropyCoefficient: 0.01 },
      { beta: 0.2, biasCorrectedKl: true, klEstimator: 'k1' },
      { beta: 0.2, biasCorrectedKl: true, klEstimator: 'k2', denominators: { tokens: 31, sequences: 8 } },
      { topEntropyQuantile: 0.3, entropyCoefficient: 0.05, beta: 0.05, denominators: { tokens: 40, sequences: 7 } },
      { offPolicyMaskThreshold: 0.02 },
    ];
    test.each(everyKind.map((options) => ({ options, title: label(options) })))('$title', async ({ options }) => {
      for (const [i, extra] of extras.entries()) {
        const tokens = randomData(i + 1);
        const all = { ...options, ...extra };
        const { rolloutLogProbs, ...inputs } = tokens;
        expectClose(await run(device, inputs, all), referencePolicyLoss(inputs, all));
      }
    });

    test.each(['token-truncate', 'token-mask', 'sequence-truncate', 'sequence-mask'] as const)(
      'rollout correction %s',
      async (mode) => {
        for (const geometric of mode.startsWith('sequence') ? [false, true] : [false]) {
          for (const lossType of mode.startsWith('token')
            ? (['dapo', 'grpo', 'vespo'] as const)
            : (['sapo'] as const)) {
            const tokens = randomData(7);
            const rolloutLogProbs = tokens.rolloutLogProbs.map((x, i) => (i === 2 || i === 6 ? Number.NaN : x));
            const options: PolicyLossOptions = {
              lossType,
              rolloutCorrection: { mode, cap: 1.15, min: 0.9, geometric },
            };
            const inputs = { ...tokens, rolloutLogProbs };
            expectClose(await run(device, inputs, options), referencePolicyLoss(inputs, options));
          }
        }
      },
    );

    test('advantages of tokens', async () => {
      for (const options of everyKind) {
        const tokens = randomData(11);
        const next = randomNumbers(5);
        const inputs = { ...tokens, advantages: tokens.logProbs.map(() => Math.fround(next())) };
        const all = { ...options, beta: 0.1, offPolicyMaskThreshold: 0.01 };
        expectClose(await run(device, inputs, all), referencePolicyLoss(inputs, all));
      }
    });

    test('delta below and above the upper bound', async () => {
      for (const delta of [1.05, 1.3]) {
        const inputs = randomData(13, [8, 8, 8], 0.6);
        expectClose(await run(device, inputs, { delta }), referencePolicyLoss(inputs, { delta }));
      }
    });

    test('long sequences, masked and not, over many blocks', async () => {
      const inputs = randomData(17, [700, 300]);
      const options: PolicyLossOptions = { importanceSamplingLevel: 'sequence', lossType: 'grpo', epsilon: 0.01 };
      for (const tokens of [inputs, { ...inputs, mask: undefined }]) {
        const { loss } = await run(device, tokens, options);
        const { loss: truth } = await oneLoss(tokens, options);
        expect(Math.abs(loss - truth)).toBeLessThan(tolerance);
      }
    });

    test('whatever the data', async () => {
      const kinds = fc.constantFrom(...everyKind);
      const extra = fc.record({
        beta: fc.constantFrom(0, 0.1),
        klEstimator: fc.constantFrom(...klEstimators),
        entropyCoefficient: fc.constantFrom(0, 0.01),
        topEntropyQuantile: fc.constantFrom(1, 0.35),
      });
      const property = fc.asyncProperty(fc.nat(1000), kinds, extra, async (seed, kind, rest) => {
        const inputs = randomData(seed, [3, 7, 2]);
        const options = { ...kind, ...rest };
        expectClose(await run(device, inputs, options), referencePolicyLoss(inputs, options));
      });
      await fc.assert(property, { numRuns: 60, seed: 1 });
    });
  });

  test('a negative control: one token off by 2 % fails the tolerance', async () => {
    const inputs = randomData(3);
    const { gradLogProbs } = await run(device, inputs, { epsilon: 10 });
    const truth = referencePolicyLoss(inputs, { epsilon: 10 });
    const largest = truth.gradLogProbs.indexOf(Math.max(...truth.gradLogProbs));
    gradLogProbs[largest]! *= 1.02;
    expect(relativeError(gradLogProbs, truth.gradLogProbs)).toBeGreaterThan(tolerance);
  });

  describe('invariances', () => {
    test('micro-batches of unequal token counts give the gradient of the whole batch', async () => {
      const all = randomData(23, [5, 3, 8, 2, 6]);
      const tokens = all.mask.reduce((sum, m) => sum + m, 0);
      for (const kind of everyKind) {
        const options = { ...kind, beta: 0.1, entropyCoefficient: 0.02, denominators: { tokens, sequences: 5 } };
        const whole = await run(device, all, options);
        const parts = [slice(all, 0, 1), slice(all, 1, 4), slice(all, 4, 5)];
        const results = [];
        for (const part of parts) results.push(await run(device, part, options));
        const gradients = results.flatMap((result) => [...result.gradLogProbs]);
        expect(relativeError(gradients, whole.gradLogProbs)).toBeLessThan(1e-7);
        expect(results.reduce((sum, { loss }) => sum + loss, 0)).toBeCloseTo(whole.loss, 6);
      }
    });

    test('with a share of the tokens of highest entropy too, when the micro-batches share its threshold', async () => {
      const all = randomData(23, [5, 3, 8, 2, 6]);
      const active = all.mask.flatMap((m, t) => (m ? all.entropy[t]! : []));
      const cuts = [slice(all, 0, 1), slice(all, 1, 4), slice(all, 4, 5)];
      for (const kind of everyKind) {
        const denominators = { tokens: active.length, sequences: 5 };
        const options = { ...kind, beta: 0.1, entropyCoefficient: 0.02, denominators };
        const share = { topEntropyQuantile: 0.35 };
        const whole = await run(device, all, { ...options, ...share });
        const entropyThreshold = referenceEntropyThreshold(active, 0.35);
        const results: Awaited<ReturnType<typeof run>>[] = [];
        for (const cut of cuts) {
          const part = { ...cut, entropyThreshold };
          results.push(await run(device, part, options));
          expectClose(results.at(-1)!, referencePolicyLoss(part, options));
        }
        const joined = (of: typeof results, key: 'gradLogProbs' | 'gradEntropy') => of.flatMap((r) => [...r[key]!]);
        expect(relativeError(joined(results, 'gradLogProbs'), whole.gradLogProbs)).toBeLessThan(2e-7);
        expect(relativeError(joined(results, 'gradEntropy'), whole.gradEntropy!)).toBeLessThan(2e-7);
        expect(results.reduce((sum, { loss }) => sum + loss, 0)).toBeCloseTo(whole.loss, 6);
        const merged = policyMetrics(mergePolicyStatistics(results.map((r) => r.statistics)), {
          ...{ clipping: true, kl: true, entropy: true, offPolicyMask: false, highEntropyMask: true, phi: false },
          rollout: false,
        });
        expect(merged.high_entropy_kept).toBeCloseTo(whole.metrics.high_entropy_kept!, 6);
        // Each with the share of its own tokens is another loss.
        const own = [];
        for (const cut of cuts) own.push(await run(device, cut, { ...options, ...share }));
        expect(relativeError(joined(own, 'gradLogProbs'), whole.gradLogProbs)).toBeGreaterThan(1e-2);
      }
    });

    test('bnpo with its own token counts does not', async () => {
      const all = randomData(23, [5, 3, 8]);
      const whole = await run(device, all, { lossType: 'bnpo' });
      const parts = [await run(device, slice(all, 0, 1), { lossType: 'bnpo' })];
      parts.push(await run(device, slice(all, 1, 3), { lossType: 'bnpo' }));
      const gradients = parts.flatMap((part) => [...part.gradLogProbs].map((x) => x / 2));
      expect(relativeError(gradients, whole.gradLogProbs)).toBeGreaterThan(1e-3);
    });

    test('permuting sequences permutes the gradients', async () => {
      const all = randomData(29, [5, 3, 8]);
      for (const kind of everyKind) {
        const { gradLogProbs, loss } = await run(device, all, kind);
        const turned = await run(device, join([slice(all, 1, 3), slice(all, 0, 1)]), kind);
        expect([...turned.gradLogProbs]).toEqual([...gradLogProbs.subarray(5), ...gradLogProbs.subarray(0, 5)]);
        expect(turned.loss).toBeCloseTo(loss, 6);
      }
    });

    test('padding with masked tokens changes nothing, bit for bit, whatever their values', async () => {
      const lengths = [5, 3, 300];
      const bare = { ...randomData(31, lengths), mask: undefined };
      const garbage = [Number.NaN, Infinity, -Infinity, 3e38, -1e30];
      for (const kind of everyKind) {
        const options: PolicyLossOptions = {
          ...kind,
          beta: 0.1,
          biasCorrectedKl: true,
          entropyCoefficient: 0.01,
          topEntropyQuantile: 0.8,
          offPolicyMaskThreshold: 0.05,
          rolloutCorrection: { mode: 'token-truncate', cap: 1.2 },
        };
        const expected = await run(device, bare, options);
        const { padded, places } = pad(bare, garbage);
        const actual = await run(device, padded, options);
        expect(actual.loss).toBe(expected.loss);
        expect(places.map((t) => actual.gradLogProbs[t])).toEqual([...expected.gradLogProbs]);
        expect(places.map((t) => actual.gradEntropy![t])).toEqual([...expected.gradEntropy!]);
        expect(actual.statistics).toEqual(expected.statistics);
        const rest = actual.gradLogProbs.filter((_, t) => !places.includes(t));
        expect(rest.every((x) => x === 0)).toBe(true);
      }
    });

    test('at ratio 1 the clipped types have gradient -A / denominator', async () => {
      const all = randomData(37, [4, 2]);
      const inputs = { ...all, oldLogProbs: undefined, mask: undefined };
      const [a, b] = all.advantages as [number, number];
      const expected = { dapo: [-a / 6, -b / 6], grpo: [-a / 8, -b / 4], luspo: [-a / 2, -b / 2] };
      for (const [lossType, [first, second]] of Object.entries(expected)) {
        for (const epsilon of [0, 0.2]) {
          const options = { lossType: lossType as 'dapo', epsilon };
          const { gradLogProbs, metrics } = await run(device, inputs, options);
          expect(relativeError(gradLogProbs, [first!, first!, first!, first!, second!, second!])).toBeLessThan(1e-7);
          expect(metrics['clip_ratio/region_mean']).toBe(0);
        }
      }
    });

    test('the same bits from any number of threads', async () => {
      const all = randomData(41, [50, 1, 260, 30, 7, 90]);
      const options: PolicyLossOptions = { importanceSamplingLevel: 'sequence', beta: 0.1 };
      const expected = await run(device, all, options);
      for (const threads of [1, 3]) {
        const other = await open(threads);
        expect(await run(other, all, options)).toEqual(expected);
        other.close();
      }
    });
  });

  describe('where peers go wrong', () => {
    const one = (lp: number, old: number, advantage: number, extra: Partial<Data> = {}): Data => ({
      logProbs: [lp],
      oldLogProbs: [old],
      advantages: [advantage],
      sequenceOffsets: [0, 1],
      ...extra,
    });

    test('expm1 in k3: small differences keep their digits', async () => {
      for (const x of [1e-6, -1e-5, 3e-4, -1e-3, 0.01, -0.3, 0.6]) {
        const lp = Math.fround(-1 - x);
        const difference = -1 - lp;
        const { metrics, gradLogProbs } = await run(device, one(lp, lp, 0, { refLogProbs: [-1] }), { beta: 1 });
        const k3 = difference ** 2 / 2 + difference ** 3 / 6 + difference ** 4 / 24 + difference ** 5 / 120;
        const exact = Math.abs(difference) < 0.01 ? k3 : Math.expm1(difference) - difference;
        expect(Math.abs(metrics.kl! / exact - 1)).toBeLessThan(2e-6);
        expect(Math.abs(gradLogProbs[0]! / -Math.expm1(difference) - 1)).toBeLessThan(1e-6);
      }
    });

    test('boundary ratios count as inside: the gradient is whole, and nothing is counted as clipped', async () => {
      for (const advantage of [1, -1]) {
        const { gradLogProbs, metrics } = await run(device, one(-1, -1, advantage), { epsilon: 0, delta: 1 });
        expect(gradLogProbs[0]).toBe(-advantage);
        expect(metrics['clip_ratio/region_mean']).toBe(0);
      }
    });

    test('just outside a boundary the gradient is 0 on the side that clips, and only there', async () => {
      const high = Math.log(1.2);
      const low = Math.log(0.8);
      const grad = async (d: number, advantage: number) =>
        (await run(device, one(d - 2, -2, advantage), {})).gradLogProbs[0]!;
      expect(await grad(high + 1e-3, 1)).toBe(0);
      expect(await grad(high - 1e-3, 1)).toBeCloseTo(-1.2, 2);
      expect(await grad(high + 1e-3, -1)).toBeCloseTo(1.2, 2);
      expect(await grad(low - 1e-3, -1)).toBe(0);
      expect(await grad(low + 1e-3, -1)).toBeCloseTo(0.8, 2);
      expect(await grad(low - 1e-3, 1)).toBeCloseTo(-0.8, 2);
    });

    test('masked tokens with a huge log-ratio contribute nothing', async () => {
      for (const kind of everyKind) {
        const inputs: Data = {
          logProbs: [-1, -1, -2, -0.5],
          oldLogProbs: [-1.1, -900, 1e30, -0.4],
          refLogProbs: [-1.2, 500, Number.NaN, -0.6],
          advantages: [1, -1],
          mask: [1, 0, 0, 1],
          sequenceOffsets: [0, 2, 4],
        };
        const short: Data = {
          logProbs: [-1, -0.5],
          oldLogProbs: [-1.1, -0.4],
          refLogProbs: [-1.2, -0.6],
          advantages: [1, -1],
          sequenceOffsets: [0, 1, 2],
        };
        const options = { ...kind, beta: 0.1 };
        const actual = await run(device, inputs, options);
        const expected = await run(device, short, options);
        expect(actual.loss).toBe(expected.loss);
        expect([...actual.gradLogProbs]).toEqual([expected.gradLogProbs[0], 0, 0, expected.gradLogProbs[1]]);
      }
    });

    test('huge ratios give finite losses and gradients, and a clipped one its bound', async () => {
      for (const kind of everyKind) {
        for (const advantage of [1, -1, 0]) {
          const { loss, gradLogProbs } = await run(device, one(-1, -500, advantage), kind);
          expect(Number.isFinite(loss)).toBe(true);
          expect(Number.isFinite(gradLogProbs[0])).toBe(true);
          if (advantage === 0) expect([Math.abs(loss), Math.abs(gradLogProbs[0]!)]).toEqual([0, 0]);
        }
      }
      const { loss, gradLogProbs } = await run(device, one(-1, -500, 1), {});
      expect(loss).toBeCloseTo(-1.2, 6);
      expect(gradLogProbs[0]).toBe(0);
    });

    test('luspo with ragged masks sums over the unmasked tokens of a sequence only', async () => {
      const inputs = randomData(43, [4, 9, 2]);
      const { loss } = await run(device, inputs, { lossType: 'luspo', importanceSamplingLevel: 'sequence' });
      let expected = 0;
      for (let b = 0; b < 3; b++) {
        const [from, to] = [inputs.sequenceOffsets[b]!, inputs.sequenceOffsets[b + 1]!];
        const active = inputs.mask.slice(from, to).reduce((sum, m) => sum + m, 0);
        if (active === 0) continue;
        let d = 0;
        for (let t = from; t < to; t++) d += inputs.mask[t]! * (inputs.logProbs[t]! - inputs.oldLogProbs[t]!);
        const ratio = Math.exp(d / active);
        const a = inputs.advantages[b]!;
        expected -= active * Math.min(ratio * a, Math.min(Math.max(ratio, 0.8), 1.2) * a);
      }
      expect(loss).toBeCloseTo(expected / 3, 5);
    });

    test('bias-corrected KL at sequence level has the cross-token gradient', async () => {
      const inputs = { ...randomData(47, [6]), advantages: [0] };
      const options: PolicyLossOptions = { importanceSamplingLevel: 'sequence', beta: 1, biasCorrectedKl: true };
      const { gradLogProbs } = await run(device, inputs, options);
      expect(relativeError(gradLogProbs, referencePolicyLoss(inputs, options).gradLogProbs)).toBeLessThan(tolerance);
    });

    test('fully masked and empty sequences and batches: zero, not NaN', async () => {
      for (const kind of everyKind) {
        const masked = { ...randomData(53, [3, 2]), mask: [0, 0, 0, 0, 0] };
        const options = { ...kind, beta: 0.1, entropyCoefficient: 0.1, topEntropyQuantile: 0.5 };
        const result = await run(device, masked, options);
        expect(Math.abs(result.loss)).toBe(0);
        expect([...result.gradLogProbs, ...result.gradEntropy!].every((x) => x === 0)).toBe(true);
        expect(result.metrics).toEqual({});
        const empty = { ...randomData(53, []), mask: undefined };
        expect(Math.abs((await run(device, empty, options)).loss)).toBe(0);
      }
    });
  });

  describe('metrics', () => {
    test('of micro-batches merge into those of the batch', async () => {
      const all = randomData(59, [5, 3, 8, 2]);
      const options: PolicyLossOptions = {
        beta: 0.1,
        offPolicyMaskThreshold: 0.01,
        topEntropyQuantile: 1,
        rolloutCorrection: { mode: 'token-mask', cap: 1.1, min: 0.95 },
      };
      const whole = (await run(device, all, options)).metrics;
      const parts = [slice(all, 0, 1), slice(all, 1, 4)].map(({ logProbs, ...rest }) => {
        const lp = device.tensor(logProbs, [logProbs.length]);
        const result = policyLoss({ logProbs: lp, ...rest } as PolicyLossInputs, options);
        lp.dispose();
        return result;
      });
      const merged = await readPolicyMetrics(parts);
      expect(Object.keys(merged)).toEqual(Object.keys(whole));
      for (const [name, value] of Object.entries(whole)) expect(merged[name], name).toBeCloseTo(value, 6);
      for (const part of parts) part.dispose();
    });

    test('say what they are named after', async () => {
      const inputs: Data = {
        logProbs: [-1, -1, -1, -1],
        oldLogProbs: [-1, -1 - Math.log(2), -1 + Math.log(2), -1],
        refLogProbs: [-1, -1, -1, -2],
        rolloutLogProbs: [-1, -1, Number.NaN, -1.5],
        entropy: [1, 2, 3, 4],
        advantages: [1, 1, -1, -1],
        sequenceOffsets: [0, 2, 4],
      };
      const { metrics } = await run(device, inputs, { rolloutCorrection: { mode: 'token-mask', cap: 1.2 } });
      const close = {
        'ratio/mean': (1 + 2 + 0.5 + 1) / 4,
        'ratio/min': 0.5,
        'ratio/max': 2,
        policy_kl: (2 - 1 - Math.log(2) + 0.5 - 1 + Math.log(2)) / 4,
        kl: Math.exp(-1) / 4,
        entropy: 2.5,
        'clip_ratio/low_mean': 0.25,
        'clip_ratio/high_mean': 0.25,
        'clip_ratio/region_mean': 0.5,
        'clip_ratio/low_min': 0,
        'clip_ratio/high_max': 0.5,
        'rollout/difference_mean': (0 + Math.log(2) + 0 + 0.5) / 4,
        'rollout/difference_max': Math.log(2),
        'rollout/kl': (0.5 - 1 + Math.log(2) + Math.exp(0.5) - 1 - 0.5) / 4,
        'rollout/weight_mean': 2.5 / 4,
        'rollout/effective_sample_size': 2.5 ** 2 / (4 * 2.25),
        'rollout/masked': 0.25,
      };
      expect(Object.keys(metrics).sort()).toEqual(Object.keys(close).sort());
      for (const [name, value] of Object.entries(close)) expect(metrics[name], name).toBeCloseTo(value, 5);
    });

    test('of the off-policy mask and of vespo', async () => {
      const inputs: Data = {
        logProbs: [-2, -2, -1, -1, -1],
        oldLogProbs: [-1, -1, -1, -1, -1],
        advantages: [-1, -1],
        sequenceOffsets: [0, 2, 5],
      };
      const masked = async (advantages: number[]) =>
        (await run(device, { ...inputs, advantages }, { offPolicyMaskThreshold: 0.9 })).metrics.off_policy_masked;
      expect(await masked([-1, -1])).toBeCloseTo(2 / 5, 6);
      expect(await masked([1, -1])).toBe(0);
      const { metrics } = await run(device, inputs, { lossType: 'vespo' });
      const phi = Math.exp(2 - 3 * 2 - 2 * Math.exp(-2));
      expect(metrics['vespo/phi_mean']).toBeCloseTo((2 * phi + 3) / 5, 6);
    });

    test('the high-entropy mask keeps the tokens at or above the quantile, ties included', async () => {
      const inputs = {
        ...randomData(61, [10]),
        mask: undefined,
        entropy: [0, 1, 2, 3, 4, 5, 5, 5, 8, 9],
        advantages: [1],
      };
      const { metrics, gradLogProbs, gradEntropy } = await run(device, inputs, {
        topEntropyQuantile: 0.4,
        entropyCoefficient: 1,
        epsilon: 10,
      });
      expect(metrics.high_entropy_kept).toBeCloseTo(0.5, 6);
      expect([...gradLogProbs].map((x) => x !== 0)).toEqual([0, 1, 2, 3, 4, 5, 5, 5, 8, 9].map((h) => h >= 5));
      expect([...gradEntropy!].map((x) => x === 0)).toEqual([0, 1, 2, 3, 4, 5, 5, 5, 8, 9].map((h) => h < 5));
      expect(gradEntropy![9]).toBeCloseTo(-1 / 5, 6);
    });

    test('the high-entropy mask keeps a token whose entropy is no number, rather than hide it', async () => {
      const inputs = { ...randomData(61, [4]), mask: undefined, advantages: [1] };
      const broken = { ...inputs, entropy: [1, 2, Number.NaN, 4], entropyThreshold: [3, 0.5] };
      const { gradLogProbs, metrics } = await run(device, broken, { epsilon: 10 });
      expect([...gradLogProbs].map((x) => x !== 0)).toEqual([false, false, true, true]);
      expect(metrics.high_entropy_kept).toBeCloseTo(0.5, 6);
      // A threshold that such an entropy made is none.
      const all = await run(device, { ...broken, entropyThreshold: [Number.NaN, 1] }, { epsilon: 10 });
      expect([...all.gradLogProbs].every((x) => x !== 0)).toBe(true);
    });
  });
});

/** The loss alone: the reference's gradient takes two losses a token. */
async function oneLoss(tokens: Data, options: PolicyLossOptions) {
  const { importanceSamplingLevel, epsilon } = options;
  expect([importanceSamplingLevel, options.lossType]).toEqual(['sequence', 'grpo']);
  let loss = 0;
  const count = tokens.sequenceOffsets.length - 1;
  for (let b = 0; b < count; b++) {
    let d = 0;
    let n = 0;
    for (let t = tokens.sequenceOffsets[b]!; t < tokens.sequenceOffsets[b + 1]!; t++) {
      if (tokens.mask && tokens.mask[t] === 0) continue;
      d += tokens.logProbs[t]! - tokens.oldLogProbs![t]!;
      n++;
    }
    const ratio = Math.exp(d / n);
    const a = tokens.advantages[b]!;
    loss -= Math.min(ratio * a, Math.min(Math.max(ratio, 1 - epsilon!), 1 + epsilon!) * a) / count;
  }
  return { loss };
}

function slice(all: Data, from: number, to: number): Data {
  const [begin, end] = [all.sequenceOffsets[from]!, all.sequenceOffsets[to]!];
  const cut = (values?: readonly number[]) => values?.slice(begin, end);
  return {
    logProbs: cut(all.logProbs)!,
    oldLogProbs: cut(all.oldLogProbs),
    refLogProbs: cut(all.refLogProbs),
    rolloutLogProbs: cut(all.rolloutLogProbs),
    entropy: cut(all.entropy),
    mask: cut(all.mask),
    advantages: all.advantages.slice(from, to),
    sequenceOffsets: all.sequenceOffsets.slice(from, to + 1).map((offset) => offset - begin),
  };
}

function join(parts: Data[]): Data {
  const all = (key: keyof Data) => (parts[0]![key] ? parts.flatMap((part) => part[key]!) : undefined);
  const offsets = [0];
  for (const part of parts) {
    const base = offsets.at(-1)!;
    offsets.push(...part.sequenceOffsets.slice(1).map((offset) => base + offset));
  }
  return {
    logProbs: all('logProbs')!,
    oldLogProbs: all('oldLogProbs'),
    refLogProbs: all('refLogProbs'),
    rolloutLogProbs: all('rolloutLogProbs'),
    entropy: all('entropy'),
    mask: all('mask'),
    advantages: all('advantages')!,
    sequenceOffsets: offsets,
  };
}

/** Masked tokens before, between and after the tokens of each sequence, and where the real ones went. */
function pad(bare: Data, garbage: number[]) {
  const keys = ['logProbs', 'oldLogProbs', 'refLogProbs', 'rolloutLogProbs', 'entropy'] as const;
  const padded = { advantages: bare.advantages, sequenceOffsets: [0], mask: [] as number[] };
  const columns = Object.fromEntries(keys.map((key) => [key, [] as number[]])) as Record<
    (typeof keys)[number],
    number[]
  >;
  const places: number[] = [];
  const addMasked = (count: number) => {
    for (let i = 0; i < count; i++) {
      keys.forEach((key, k) => {
        columns[key].push(garbage[(i + k) % garbage.length]!);
      });
      padded.mask.push(0);
    }
  };
  for (let b = 0; b + 1 < bare.sequenceOffsets.length; b++) {
    addMasked(b + 1);
    for (let t = bare.sequenceOffsets[b]!; t < bare.sequenceOffsets[b + 1]!; t++) {
      places.push(padded.mask.length);
      for (const key of keys) columns[key].push(bare[key]![t]!);
      padded.mask.push(1);
      if (t % 3 === 0) addMasked(t % 2);
    }
    addMasked(3);
    padded.sequenceOffsets.push(padded.mask.length);
  }
  return { padded: { ...padded, ...columns } as Data, places };
}
