import { describe, expect, it } from 'vitest';
import { groupedShare, wilson } from '../../../src/eval/statistics.js';

describe('wilson', () => {
  // Wilson's score interval without continuity correction, as statsmodels' proportion_confint(method='wilson') gives it.
  it.each([
    [0, 10, 0, 0.2775],
    [1, 10, 0.0179, 0.4042],
    [5, 10, 0.2366, 0.7634],
    [10, 10, 0.7225, 1],
    [80, 540, 0.1207, 0.1806],
  ])('%i of %i', (hits, count, low, high) => {
    const estimate = wilson(hits, count);
    expect(estimate).toMatchObject({ value: hits / count, hits, count, method: 'wilson' });
    expect(estimate.low).toBeCloseTo(low, 4);
    expect(estimate.high).toBeCloseTo(high, 4);
  });

  it('knows nothing without trials', () => {
    expect(wilson(0, 0)).toMatchObject({ value: 0, low: 0, high: 1 });
  });
});

describe('groupedShare', () => {
  const alternating = (groups: number, size: number) =>
    Array.from({ length: groups }, (_, i) => new Array<boolean>(size).fill(i % 2 === 0));

  it('is wider than for independent trials when the trials of a group agree', () => {
    const estimate = groupedShare(alternating(100, 4));
    expect(estimate).toMatchObject({ value: 0.5, hits: 200, count: 400, method: 'bootstrap' });
    // 100 independent groups: 1.96 * sqrt(0.25 / 100) = 0.098. 400 independent trials would give 0.049.
    expect(estimate.high - 0.5).toBeGreaterThan(0.08);
    expect(estimate.high - 0.5).toBeLessThan(0.116);
    expect(0.5 - estimate.low).toBeCloseTo(estimate.high - 0.5, 1);
  });

  it('is the same for the same seed, and another one for another', () => {
    const groups = Array.from({ length: 50 }, (_, i) => [i % 3 === 0, i % 2 === 0]);
    expect(groupedShare(groups, 1)).toEqual(groupedShare(groups, 1));
    expect(groupedShare(groups, 1)).not.toEqual(groupedShare(groups, 2));
  });

  it('is Wilson for groups of one', () => {
    expect(groupedShare(alternating(40, 1))).toEqual(wilson(20, 40));
  });

  it('is never surer than its groups allow', () => {
    const agree = groupedShare(new Array(40).fill([true, true]));
    expect(agree).toMatchObject({ value: 1, hits: 80, count: 80, low: wilson(40, 40).low, high: 1, method: 'wilson' });
    const few = groupedShare([[true, false]]);
    expect(few).toMatchObject({ value: 0.5, hits: 1, count: 2, method: 'wilson' });
    expect(few.high - few.low).toBeGreaterThan(0.8);
  });

  it('leaves out groups without trials', () => {
    expect(groupedShare([[], [true], []])).toEqual(wilson(1, 1));
  });
});
