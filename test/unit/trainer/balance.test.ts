import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { balancedRuns, tokenCosts, tokenShare } from '../../../src/trainer/balance.js';

const alone = (costs: number[]) => costs.map((cost) => ({ alone: cost, joined: cost }));
const sums = (costs: number[], offsets: number[]) =>
  offsets.slice(1).map((end, p) => costs.slice(offsets[p], end).reduce((sum, cost) => sum + cost, 0));

/** The cost of the best cut, found by trying all of them. */
function bestCut(costs: number[], parts: number): number {
  if (parts === 1) return costs.reduce((sum, cost) => sum + cost, 0);
  let best = Number.POSITIVE_INFINITY;
  let first = 0;
  for (let i = 0; i <= costs.length; i++) {
    best = Math.min(best, Math.max(first, bestCut(costs.slice(i), parts - 1)));
    first += costs[i] ?? 0;
  }
  return best;
}

describe('balancedRuns', () => {
  it('cuts by cost, not by number', () => {
    expect(balancedRuns(alone([100, 1, 1, 1, 1, 96]), 2)).toEqual([0, 1, 6]);
  });

  it('uses each item once, in order, and is as good as the best cut', () => {
    const lists = fc.array(fc.integer({ min: 1, max: 50 }), { maxLength: 7 });
    fc.assert(
      fc.property(lists, fc.integer({ min: 1, max: 4 }), (costs, parts) => {
        const offsets = balancedRuns(alone(costs), parts);
        expect(offsets).toHaveLength(parts + 1);
        expect([offsets[0], offsets.at(-1)]).toEqual([0, costs.length]);
        expect(offsets).toEqual(offsets.toSorted((a, b) => a - b));
        expect(Math.max(...sums(costs, offsets))).toBe(bestCut(costs, parts));
      }),
    );
  });

  it('leaves ranks without work when there is less than a sequence for each', () => {
    expect(balancedRuns(alone([5, 5]), 4)).toEqual([0, 1, 2, 2, 2]);
    expect(balancedRuns([], 2)).toEqual([0, 0, 0]);
  });
});

it('completions of one prompt share it when they stay together', () => {
  const [a, b] = [Int32Array.of(1, 2, 3), Int32Array.of(1, 2, 4)];
  const sequences = [a, Int32Array.from(a), b].map((promptIds) => ({ promptIds, completionIds: [7, 8] }));
  expect(tokenCosts(sequences)).toEqual([
    { alone: 5, joined: 5 },
    { alone: 5, joined: 2 },
    { alone: 5, joined: 5 },
  ]);
  expect(tokenShare(sequences, 0, 2)).toEqual(sequences.slice(0, 2));
  expect(tokenShare(sequences, 1, 2)).toEqual(sequences.slice(2));
});
