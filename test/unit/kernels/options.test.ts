import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { InvalidArgumentError } from '../../../src/errors.js';
import {
  advantageBaselines,
  advantageScales,
  type EntropyThresholdOptions,
  entropyThreshold,
  groupAdvantages,
  klEstimators,
  linearTokenLogProbs,
  lossTypes,
  mergePolicyStatistics,
  type PolicyLossFromLogitsInputs,
  type PolicyLossFromLogitsOptions,
  type PolicyLossInputs,
  type PolicyLossOptions,
  policyLoss,
  policyLossFromLogits,
  policyMetrics,
  policyStatisticCount,
  policyStatisticNames,
  readPolicyMetrics,
  rolloutCorrections,
  type SoftmaxOptions,
  type TokenLogProbsBackwardOptions,
  tokenLogProbs,
  tokenLogProbsBackward,
  tokenLogProbsPartial,
} from '../../../src/kernels/index.js';
import type { Device, Tensor } from '../../../src/tensor.js';

let device: Device;
let logits: Tensor;
let logProbs: Tensor;

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  logits = device.zeros([2, 5]);
  logProbs = device.zeros([3]);
});

afterAll(() => {
  logits.dispose();
  logProbs.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

function expectRefused(run: () => unknown, message: RegExp) {
  expect(run).toThrow(InvalidArgumentError);
  expect(run).toThrow(message);
}

describe('tokenLogProbs refuses', () => {
  test.each([
    [[0, 5], /0 to 4 for tokenLogProbs: targets\[1\] but received 5/],
    [[-1, 0], /targets\[0\] but received -1/],
    [[0.5, 0], /targets\[0\] but received 0.5/],
    [[0], /targets/],
    ['01', /targets/],
  ])('targets %o', (targets, message) => {
    expectRefused(() => tokenLogProbs(logits, targets as number[]), message);
  });

  test.each<[SoftmaxOptions, RegExp]>([
    [{ temperature: 0 }, /temperature but received 0/],
    [{ temperature: Number.NaN }, /temperature but received NaN/],
    [{ softcap: -1 }, /softcap but received -1/],
    [{ temprature: 1 } as SoftmaxOptions, /temprature/],
  ])('options %o', (options, message) => {
    expectRefused(() => tokenLogProbs(logits, [0, 1], options), message);
  });

  test('logits that are no matrix', () => {
    expectRefused(() => tokenLogProbs(logProbs, [0, 1, 2]), /rank 2/);
    expectRefused(() => tokenLogProbs([1] as unknown as Tensor, [0]), /a tensor for tokenLogProbs: logits/);
  });
});

test('tokenLogProbsBackward and tokenLogProbsPartial refuse slices outside the vocabulary', () => {
  const rows = device.zeros([2]);
  const options: TokenLogProbsBackwardOptions = { gradLogProbs: rows, logSumExp: rows };
  expectRefused(() => tokenLogProbsBackward(logits, [0, 1], { ...options, vocabSize: 4 }), /vocabSize/);
  expectRefused(() => tokenLogProbsBackward(logits, [0, 1], { ...options, vocabStart: 1 }), /vocabStart/);
  expectRefused(() => tokenLogProbsPartial(logits, [0, 9], { vocabSize: 9 }), /0 to 8.*targets\[1\]/);
  const both = { ...options, inPlace: true, gradLogits: logits };
  expectRefused(() => tokenLogProbsBackward(logits, [0, 1], both), /nothing with inPlace/);
  rows.dispose();
});

test('linearTokenLogProbs refuses a workspace of 0 and operands that do not fit', () => {
  const weight = device.zeros([7, 5]);
  expectRefused(() => linearTokenLogProbs(logits, weight, [0, 1], { workspaceBytes: 0 }), /workspaceBytes/);
  expectRefused(() => linearTokenLogProbs(logits, weight, [0, 7]), /0 to 6.*targets\[1\]/);
  const narrow = device.zeros([7, 4]);
  expectRefused(() => linearTokenLogProbs(logits, narrow, [0, 1]), /weight/);
  weight.dispose();
  narrow.dispose();
});

describe('groupAdvantages refuses', () => {
  test.each([
    [[1, 2, 3], { groupSize: 2 }, /a divisor of 3 for groupAdvantages: groupSize/],
    [[1, 2], {}, /either groupSize or groupOffsets/],
    [[1, 2], { groupSize: 2, groupOffsets: [0, 2] }, /either groupSize or groupOffsets/],
    [[1, 2], { groupOffsets: [0, 3, 2] }, /groupOffsets\[1\] but received 3/],
    [[1, 2], { groupOffsets: [1, 2] }, /0 for groupAdvantages: groupOffsets\[0\]/],
    [[1, 2], { groupOffsets: [0, 1] }, /2 for groupAdvantages: groupOffsets\[1\] but received 1/],
    [[1, Infinity], { groupSize: 2 }, /rewards\[1\] but received Infinity/],
    [[1, 2], { groupSize: 2, baseline: 'median' as 'mean' }, /'mean' or 'leave-one-out' or 'none'/],
    [[1, 2], { groupSize: 2, epsilon: -1 }, /epsilon/],
  ])('%o with %o', (rewards, options, message) => {
    expectRefused(() => groupAdvantages(rewards, { device, ...options }), message);
  });

  test('an array without a device', () => {
    expectRefused(() => groupAdvantages([1, 2], { groupSize: 2 }), /device/);
  });
});

test('entropyThreshold refuses what is no share, no mask and no device', () => {
  const options = { device, topEntropyQuantile: 0.5 };
  for (const share of [0, -1, 1.5, Number.NaN, '0.5' as unknown as number]) {
    expectRefused(() => entropyThreshold([1], { device, topEntropyQuantile: share }), /share .* topEntropyQuantile/);
  }
  expectRefused(() => entropyThreshold([1], {} as EntropyThresholdOptions), /topEntropyQuantile/);
  expectRefused(() => entropyThreshold([1], { topEntropyQuantile: 0.5 }), /device/);
  expectRefused(() => entropyThreshold([1, 2], { ...options, mask: [0, 2] }), /0 or 1 for entropyThreshold: mask\[1\]/);
  expectRefused(() => entropyThreshold([1, 2], { ...options, mask: [0] }), /mask/);
  expectRefused(() => entropyThreshold(logits, options), /entropy/);
  expectRefused(() => entropyThreshold([1], { ...options, quantile: 1 } as EntropyThresholdOptions), /quantile/);
});

describe('policyLoss refuses', () => {
  const three = [0, 0, 0];
  const inputs = (extra: Partial<PolicyLossInputs> = {}): PolicyLossInputs => ({
    logProbs,
    advantages: [1, 1],
    sequenceOffsets: [0, 1, 3],
    ...extra,
  });

  test.each<[PolicyLossOptions, RegExp]>([
    [{ beta: 0.1 }, /refLogProbs/],
    [{ entropyCoefficient: 0.1 }, /entropy/],
    [{ topEntropyQuantile: 0.5 }, /entropy/],
    [{ lossType: 'ppo' as 'grpo' }, /lossType but received "ppo"/],
    [{ importanceSamplingLevel: 'batch' as 'token' }, /importanceSamplingLevel/],
    [{ klEstimator: 'k4' as 'k3' }, /klEstimator/],
    [{ lossType: 'dr_grpo' }, /maxCompletionLength/],
    [{ lossType: 'cispo' }, /epsilonHigh/],
    [{ lossType: 'sapo', delta: 2 }, /delta/],
    [{ lossType: 'vespo', importanceSamplingLevel: 'sequence' }, /importanceSamplingLevel/],
    [{ epsilon: -0.1 }, /epsilon/],
    [{ delta: 0 }, /delta/],
    [{ beta: -1 }, /refLogProbs|beta/],
    [{ sapoTemperatures: { positive: 0, negative: 1 } }, /sapoTemperatures.positive/],
    [{ denominators: { tokens: 0 } }, /denominators.tokens/],
    [{ denominators: { token: 5 } as PolicyLossOptions['denominators'] }, /options among tokens, sequences/],
    [{ sapoTemperatures: { positive: 1, negative: 1, tau: 2 } as { positive: 1; negative: 1 } }, /positive, negative/],
    [{ vespo: { k: 2 } as unknown as PolicyLossOptions['vespo'] }, /options among kPositive/],
    [{ rolloutCorrection: { mode: 'token-mask' } }, /rolloutLogProbs/],
    [{ epsilom: 0.1 } as PolicyLossOptions, /epsilom/],
  ])('%o', (options, message) => {
    expectRefused(() => policyLoss(inputs(), options), message);
  });

  test.each<[PolicyLossOptions, RegExp]>([
    [{ rolloutCorrection: { mode: 'token-mask', geometric: true } }, /geometric/],
    [{ rolloutCorrection: { mode: 'token-mask', cap: 0.5, min: 0.8 } }, /cap/],
    [{ rolloutCorrection: { mode: 'word-mask' as 'token-mask' } }, /mode/],
    [{ lossType: 'vespo', rolloutCorrection: { mode: 'sequence-mask' } }, /a token mode with vespo/],
  ])('%o with rollout log-probs', (options, message) => {
    expectRefused(() => policyLoss(inputs({ rolloutLogProbs: three }), options), message);
  });

  test.each<[Partial<PolicyLossInputs>, RegExp]>([
    [{ advantages: [1] }, /2 \(one a sequence\) or 3 \(one a token\)/],
    [{ sequenceOffsets: [0, 2] }, /sequenceOffsets\[1\]/],
    [{ mask: [0, 1, 2] }, /0 or 1 for policyLoss: mask\[2\]/],
    [{ oldLogProbs: [0, 0] }, /oldLogProbs/],
    [{ oldLogprobs: three } as Partial<PolicyLossInputs>, /oldLogprobs/],
  ])('%o', (extra, message) => {
    expectRefused(() => policyLoss(inputs(extra)), message);
  });
});

test('policyLoss refuses a threshold that is none, without entropy, or beside a share', () => {
  const threshold = device.zeros([2]);
  const inputs = { logProbs, advantages: [1], sequenceOffsets: [0, 3], entropyThreshold: threshold };
  const entropy = [1, 2, 3];
  expectRefused(() => policyLoss(inputs), /entropyThreshold needs, for policyLoss: entropy/);
  expectRefused(() => policyLoss({ ...inputs, entropyThreshold: logProbs, entropy }), /shape \[2\]/);
  expectRefused(() => policyLoss({ ...inputs, entropyThreshold: 3 as unknown as Tensor, entropy }), /a tensor/);
  expectRefused(() => policyLoss({ ...inputs, entropy }, { topEntropyQuantile: 0.5 }), /1 beside entropyThreshold/);
  threshold.dispose();
});

describe('policyLossFromLogits refuses', () => {
  const inputs = (): PolicyLossFromLogitsInputs => ({
    logits,
    targets: [0, 4],
    advantages: [1],
    sequenceOffsets: [0, 2],
  });

  test.each<[PolicyLossFromLogitsOptions, RegExp]>([
    [{ beta: 0.1 }, /policyLossFromLogits: refLogProbs/],
    [{ lossType: 'cispo' }, /policyLossFromLogits: epsilonHigh/],
    [{ lossType: 'vespo', delta: 2 }, /policyLossFromLogits: delta/],
    [{ denominators: { tokens: 0 } }, /policyLossFromLogits: denominators.tokens/],
    [{ rolloutCorrection: { mode: 'token-mask' } }, /policyLossFromLogits: rolloutLogProbs/],
    [{ temperature: 0 }, /policyLossFromLogits: temperature but received 0/],
    [{ softcap: -1 }, /policyLossFromLogits: softcap but received -1/],
    [{ topEntropyQuantile: 2 }, /topEntropyQuantile but received 2/],
    [{ entropyBonus: 1 } as PolicyLossFromLogitsOptions, /policyLossFromLogits: options but received "entropyBonus"/],
  ])('%o', (options, message) => {
    expectRefused(() => policyLossFromLogits(inputs(), options), message);
  });

  test.each<[Partial<PolicyLossFromLogitsInputs>, RegExp]>([
    [{ targets: [0, 5] }, /0 to 4 for policyLossFromLogits: targets\[1\] but received 5/],
    [{ targets: [0] }, /policyLossFromLogits: targets/],
    [{ advantages: [] }, /policyLossFromLogits: advantages/],
    [{ sequenceOffsets: [0, 1] }, /policyLossFromLogits: sequenceOffsets\[1\]/],
    [{ mask: [1, 2] }, /0 or 1 for policyLossFromLogits: mask\[1\]/],
    [{ oldLogProbs: [1] }, /policyLossFromLogits: oldLogProbs/],
    [{ entropy: [1, 2] } as Partial<PolicyLossFromLogitsInputs>, /policyLossFromLogits: inputs but received "entropy"/],
  ])('%o', (extra, message) => {
    expectRefused(() => policyLossFromLogits({ ...inputs(), ...extra }), message);
  });

  test('logits that are no matrix, two places for the gradient, a place of another shape', () => {
    expectRefused(() => policyLossFromLogits({ ...inputs(), logits: logProbs }), /rank 2/);
    expectRefused(() => policyLossFromLogits(inputs(), { inPlace: true, gradLogits: logits }), /nothing with inPlace/);
    expectRefused(() => policyLossFromLogits(inputs(), { gradLogits: logProbs }), /policyLossFromLogits: gradLogits/);
  });

  test('a mask of tokenLogProbs that is none', () => {
    expectRefused(() => tokenLogProbs(logits, [0, 1], { mask: [0, 3] }), /0 or 1 for tokenLogProbs: mask\[1\]/);
    expectRefused(() => tokenLogProbs(logits, [0, 1], { mask: [0] }), /tokenLogProbs: mask/);
  });
});

describe('lists that the C API repeats', () => {
  const header = readFileSync(new URL('../../../kernels/include/grpo.h', import.meta.url), 'utf8');
  const constants = (prefix: string) =>
    [...header.matchAll(new RegExp(`GRPO_${prefix}_(\\w+) = (\\d+)`, 'g'))].map(([, name, value]) => {
      return [name!.toLowerCase(), Number(value)];
    });
  const numbered = (list: readonly string[]) => list.map((name, i) => [name.replaceAll('-', '_'), i]);

  test.each([
    ['LOSS', lossTypes],
    ['KL', klEstimators],
    ['CORRECTION', rolloutCorrections],
    ['BASELINE', advantageBaselines],
    ['SCALE', advantageScales],
  ])('%s', (prefix, list) => {
    expect(numbered(list)).toEqual(constants(prefix));
  });

  test('statistics of the policy loss', () => {
    const common = readFileSync(new URL('../../../kernels/common/policy_loss.h', import.meta.url), 'utf8');
    const list = /enum PolicyStatistic \{([\s\S]*?)\};/.exec(common)![1]!.replace(/\/\/.*/g, '');
    const names = [...list.matchAll(/\bk([A-Z]\w*)\b/g)].map(([, name]) => name!);
    const inHeader = names
      .filter((name) => name !== 'SumCount' && name !== 'StatisticCount')
      .map((name) => name.replace(/Sum$/, '').replace(/^./, (first) => first.toLowerCase()));
    expect(inHeader).toEqual(policyStatisticNames);
    expect(names.filter((name) => name === 'SumCount').length).toBe(2);
    expect(names.indexOf('SumCount')).toBe(policyStatisticNames.indexOf('ratioMin'));
  });
});

test('mergePolicyStatistics adds sums and takes extremes', () => {
  const a = Float64Array.from({ length: policyStatisticCount }, (_, i) => i + 1);
  const b = Float64Array.from({ length: policyStatisticCount }, (_, i) => 2 * i);
  const merged = mergePolicyStatistics([a, b]);
  expect(merged[0]).toBe(1);
  expect(merged[5]).toBe(16);
  expect([...merged.slice(16)]).toEqual([17, 18, 36, 38, 40]);
  expect(() => mergePolicyStatistics([a, [1]])).toThrow(InvalidArgumentError);
});

test('metrics of nothing are empty', async () => {
  expect(await readPolicyMetrics([])).toEqual({});
  const reported = {
    clipping: true,
    kl: true,
    entropy: true,
    offPolicyMask: true,
    highEntropyMask: true,
    phi: true,
    rollout: true,
  };
  expect(policyMetrics(new Float64Array(policyStatisticCount), reported)).toEqual({});
});
