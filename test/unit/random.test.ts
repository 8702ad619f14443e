import { describe, expect, it } from 'vitest';
import { normals, philox, seedWords } from '../../src/random.js';

const hex = (words: Uint32Array) => [...words].map((w) => w.toString(16).padStart(8, '0')).join(' ');

describe('Philox4x32-10', () => {
  // The known answers that Random123 ships.
  it.each([
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[-1, -1, -1, -1], [-1, -1], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [[0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0], 'd16cfe09 94fdcceb 5001e420 24126ea1'],
  ])('of %j with key %j', (counter, key, expected) => {
    const out = new Uint32Array(4);
    philox(counter, key, out);
    expect(hex(out)).toBe(expected);
  });
});

describe('normal numbers', () => {
  it('have mean 0, variance 1 and light tails', () => {
    const x = normals(40_000, 3, 0);
    const mean = x.reduce((sum, v) => sum + v, 0) / x.length;
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
    const beyondTwo = x.filter((v) => Math.abs(v) > 2).length / x.length;
    expect(Math.abs(mean)).toBeLessThan(0.02);
    expect(Math.abs(variance - 1)).toBeLessThan(0.03);
    expect(Math.abs(beyondTwo - 0.0455)).toBeLessThan(0.004);
  });

  it('depend on seed and stream, and do not depend on how many are drawn', () => {
    expect(normals(7, 1, 0)).toEqual(normals(9, 1, 0).slice(0, 7));
    expect(normals(8, 1, 0)).not.toEqual(normals(8, 2, 0));
    expect(normals(8, 1, 0)).not.toEqual(normals(8, 1, 1));
    expect(normals(8, 1, 0)).not.toEqual(normals(8, 1 + 2 ** 32, 0));
  });

  it('have a seed of two words', () => {
    expect(seedWords(5)).toEqual([5, 0]);
    expect(seedWords(2 ** 32 + 5)).toEqual([5, 1]);
    expect(seedWords(-1)).toEqual([-1, -1]);
  });
});
