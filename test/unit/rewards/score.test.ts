import { describe, expect, it } from 'vitest';
import type { Reward } from '../../../src/rewards/reward.js';
import { asRewards, scoreBatch } from '../../../src/rewards/score.js';
import { sample } from './samples.js';

const batch = ['a', 'bb', 'ccc'].map((text) => sample(text));
const length: Reward = { name: 'length', score: (rows) => rows.map((row) => row.completion.length) };

const failing: [what: string, score: () => unknown, reason: string, message: string][] = [
  [
    'throws',
    () => {
      throw new Error('boom');
    },
    'threw',
    'boom',
  ],
  ['rejects', async () => Promise.reject('no error object'), 'threw', 'no error object'],
  ['returns too few scores', () => [1, 2], 'wrong-count', 'bad returned 2 scores for 3 completions'],
  ['returns nothing', () => undefined, 'wrong-count', 'bad returned no scores for 3 completions'],
  ['takes too long', () => new Promise(() => {}), 'timeout', 'no scores after 20 ms'],
];

describe('scoreBatch', () => {
  it('adds the rewards with their weights', async () => {
    const half: Reward = { name: 'half', score: async () => Float32Array.of(1, 2, 3), weight: 0.5 };
    const { totals, scores, failures } = await scoreBatch([length, half], batch);
    expect([...totals]).toEqual([1.5, 3, 4.5]);
    expect(scores).toEqual({ length: [1, 2, 3], half: [1, 2, 3] });
    expect(failures).toEqual([]);
  });

  it('leaves out a reward that does not apply, and a sample that cannot be scored', async () => {
    const some: Reward = { name: 'some', score: () => [10, null, Number.NaN] };
    const { totals, scores } = await scoreBatch([length, some], batch);
    expect([...totals]).toEqual([11, 2, Number.NaN]);
    expect(scores.some).toEqual([10, null, Number.NaN]);
  });

  it('gives no score to a sample that no reward applies to', async () => {
    const { totals } = await scoreBatch([{ name: 'none', score: () => [null, null, 1] }], batch);
    expect([...totals]).toEqual([Number.NaN, Number.NaN, 1]);
  });

  it.each(failing)('goes on when a reward %s', async (_, score, reason, message) => {
    const bad = { name: 'bad', score: score as unknown as Reward['score'], timeoutMs: 20 };
    const { totals, scores, failures } = await scoreBatch([length, bad], batch);
    expect([...totals]).toEqual([Number.NaN, Number.NaN, Number.NaN]);
    expect(scores).toEqual({ length: [1, 2, 3], bad: [Number.NaN, Number.NaN, Number.NaN] });
    expect(failures).toEqual([{ reward: 'bad', reason, message }]);
  });

  it('takes what is not a finite number as unscorable', async () => {
    const odd = { name: 'odd', score: () => [Number.POSITIVE_INFINITY, '1', undefined] as unknown as number[] };
    expect([...(await scoreBatch([odd], batch)).totals]).toEqual([Number.NaN, Number.NaN, Number.NaN]);
  });

  it('runs the rewards at the same time', async () => {
    let waiting = 0;
    let release = () => {};
    const both = new Promise<void>((resolve) => {
      release = resolve;
    });
    const meet = (name: string): Reward => ({
      name,
      timeoutMs: 1000,
      score: async (rows) => {
        if (++waiting === 2) release();
        await both;
        return rows.map(() => 1);
      },
    });
    expect((await scoreBatch([meet('one'), meet('two')], batch)).failures).toEqual([]);
  });
});

describe('asRewards', () => {
  it('names a bare function after itself and takes weights in order', () => {
    function brevity() {
      return [];
    }
    const rewards = asRewards([brevity, () => [], length], [1, 2, 3]);
    expect(rewards.map(({ name, weight }) => [name, weight])).toEqual([
      ['brevity', 1],
      ['reward_1', 2],
      ['length', 3],
    ]);
  });

  it.each([
    [[], undefined, /at least one reward/],
    [[length, length], undefined, /names that differ/],
    [[length], [1, 2], /rewardWeights/],
    [[{ ...length, weight: 2 }], [1], /no weight beside rewardWeights/],
    [[{ ...length, weight: Number.NaN }], undefined, /length\.weight/],
    [[{ ...length, timeoutMs: 0 }], undefined, /length\.timeoutMs/],
    [[{ name: '', score: length.score }], undefined, /rewards\[0\]/],
    [['maths'], undefined, /rewards\[0\].*"maths"/],
  ])('rejects %j with weights %j', (rewards, weights, expected) => {
    expect(() => asRewards(rewards as Reward[], weights)).toThrow(expected);
  });
});
