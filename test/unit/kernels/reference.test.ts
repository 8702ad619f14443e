/** The references that the kernels are held to are held to PyTorch, TRL and finite differences here. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { PolicyLossOptions } from '../../../src/kernels/index.js';
import { randomNumbers, relativeError } from '../../reference/compare.js';
import { referenceRow, referenceRowGradient } from '../../reference/log-probs.js';
import { type ReferenceTokens, referencePolicyLoss } from '../../reference/policy-loss.js';

function read<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../fixtures/kernels/${name}`, import.meta.url), 'utf8')) as T;
}

interface LogProbCase {
  name: string;
  vocab: number;
  logits: (number | string)[];
  targets: number[];
  temperature: number;
  softcap: number;
  logProbs: number[];
  entropy: number[];
  gradLogProbs: number[];
  gradEntropy: number[];
  gradLogitsOfBoth: number[];
}

describe('log-probs agree with PyTorch in float64', () => {
  test.each(read<{ cases: LogProbCase[] }>('log-probs.json').cases)('$name', (c) => {
    c.targets.forEach((target, n) => {
      const row = (x: (number | string)[]) => x.slice(n * c.vocab, (n + 1) * c.vocab).map(Number);
      const { logProb, entropy } = referenceRow(row(c.logits), target, c);
      expect(logProb).toBeCloseTo(c.logProbs[n]!, 9);
      expect(entropy).toBeCloseTo(c.entropy[n]!, 9);
      const gradient = referenceRowGradient(row(c.logits), target, c, c.gradLogProbs[n]!, c.gradEntropy[n]!);
      // Large offsets cost both sides digits: 5e4 leaves 1e-11 of z.
      expect(relativeError(gradient, row(c.gradLogitsOfBoth))).toBeLessThan(1e-8);
    });
  });
});

test('gradients of log-prob and entropy agree with central differences', () => {
  const next = randomNumbers(3);
  const logits = Array.from({ length: 12 }, () => next() * 6);
  for (const softmax of [
    { temperature: 1, softcap: 0 },
    { temperature: 0.6, softcap: 4 },
  ]) {
    const value = (x: number[]) => {
      const { logProb, entropy } = referenceRow(x, 5, softmax);
      return 1.3 * logProb - 0.4 * entropy;
    };
    const step = 1e-5;
    const numeric = logits.map((_, i) => {
      const moved = (by: number) => value(logits.map((x, j) => (j === i ? x + by : x)));
      return (moved(step) - moved(-step)) / (2 * step);
    });
    expect(relativeError(referenceRowGradient(logits, 5, softmax, 1.3, -0.4), numeric)).toBeLessThan(1e-8);
  }
});

interface PolicyCase {
  options: PolicyLossOptions & { withoutOld?: boolean; withRollout?: boolean };
  loss: number;
  gradLogProbs: number[];
  gradEntropy: number[] | null;
}

describe("the policy loss agrees with TRL's own in float64", () => {
  const { data, cases } = read<{ data: ReferenceTokens; cases: PolicyCase[] }>('policy-loss.json');
  test.each(cases.map((c, i) => ({ ...c, title: `${i} ${c.options.lossType}` })))('$title', (c) => {
    const { withoutOld, withRollout, ...options } = c.options;
    const tokens = {
      ...data,
      ...(withoutOld && { oldLogProbs: undefined }),
      ...(!withRollout && !options.rolloutCorrection && { rolloutLogProbs: undefined }),
    };
    const { loss, gradLogProbs, gradEntropy } = referencePolicyLoss(tokens, options);
    expect(loss).toBeCloseTo(c.loss, 10);
    expect(relativeError(gradLogProbs, c.gradLogProbs)).toBeLessThan(1e-7);
    if (c.gradEntropy) expect(relativeError(gradEntropy, c.gradEntropy)).toBeLessThan(1e-7);
  });
});
