import { describe, expect, it } from 'vitest';
import { deriveSeed, permutation, randomSource } from '../../../src/data/random.js';
import { Sampler } from '../../../src/data/sampler.js';

describe('Sampler', () => {
  const shuffled = (seed = 1) => new Sampler(10, { seed, shuffle: true });

  it('gives each row once a pass, in another order each pass', () => {
    const sampler = shuffled();
    const first = sampler.take(10);
    const second = sampler.take(10);
    const all = Array.from({ length: 10 }, (_, i) => i);
    expect(first.toSorted((a, b) => a - b)).toEqual(all);
    expect(second.toSorted((a, b) => a - b)).toEqual(all);
    expect(second).not.toEqual(first);
    expect(sampler.state).toEqual({ epoch: 2, position: 0 });
  });

  it('depends on the seed and on nothing else', () => {
    expect(shuffled(7).take(25)).toEqual(shuffled(7).take(25));
    expect(shuffled(7).take(25)).not.toEqual(shuffled(8).take(25));
  });

  it('goes on where a restored state stopped', () => {
    const unbroken = shuffled();
    unbroken.take(17);
    const restored = shuffled();
    restored.restore(JSON.parse(JSON.stringify(unbroken.state)));
    expect(restored.epochs).toBeCloseTo(1.7);
    expect(restored.take(30)).toEqual(unbroken.take(30));
  });

  it('tells what comes next without handing it out, across passes', () => {
    const sampler = shuffled();
    sampler.take(7);
    const coming = sampler.peek(25);
    expect(sampler.state).toEqual({ epoch: 0, position: 7 });
    expect(sampler.take(25)).toEqual(coming);
  });

  it('keeps the order of the file when it does not shuffle', () => {
    expect(new Sampler(3, { seed: 1, shuffle: false }).take(7)).toEqual([0, 1, 2, 0, 1, 2, 0]);
  });

  it('rejects an empty data set and a state of another data set', () => {
    expect(() => new Sampler(0, { seed: 1, shuffle: true })).toThrow(/at least one row.*0 rows/);
    expect(() => shuffled().restore({ epoch: 0, position: 10 })).toThrow(/\[0, 10\)/);
    expect(() => shuffled().restore({ epoch: -1, position: 0 })).toThrow(/epoch/);
  });
});

describe('random numbers', () => {
  it('are spread evenly', () => {
    const next = randomSource(3, 4);
    const buckets = new Array<number>(16).fill(0);
    for (let i = 0; i < 16000; i++) buckets[next() >>> 28]!++;
    for (const count of buckets) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  it('order three things in all six ways about equally often', () => {
    const counts = new Map<string, number>();
    const next = randomSource(5, 0);
    for (let i = 0; i < 6000; i++) {
      const order = permutation(3, next).join('');
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150);
  });

  it('differ between seeds that are close to each other', () => {
    const seeds = new Set<number>();
    for (let a = 0; a < 50; a++) for (let b = 0; b < 50; b++) seeds.add(deriveSeed(a, b));
    expect(seeds.size).toBe(2500);
  });
});
