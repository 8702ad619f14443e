import { describe, expect, it } from 'vitest';
import { matchResponses, missingError } from '../../../src/eval/responses.js';

const items = ['a', 'b', 'c'].map((id) => ({ id, prompts: [`prompt ${id}, asked`, `prompt ${id}`] }));
const file = (...rows: unknown[]) => rows.map((row) => JSON.stringify(row)).join('\n');

describe('matchResponses', () => {
  it('finds responses by any of the prompts of an item', () => {
    const text = file(
      { prompt: 'prompt b', response: 'B' },
      { prompt: 'prompt a, asked', response: 'A', reasoning: 'hm', id: 'other' },
      { prompt: 'of another benchmark', response: 'X' },
    );
    const { rows, missing, unused } = matchResponses(text, 'f', items);
    expect([...rows]).toEqual([
      ['a', { id: 'a', prompt: 'prompt a, asked', response: 'A', reasoning: 'hm' }],
      ['b', { id: 'b', prompt: 'prompt b', response: 'B' }],
    ]);
    expect({ missing, unused }).toEqual({ missing: ['c'], unused: 1 });
  });

  it('names what is missing', () => {
    const error = missingError('f', items, ['b', 'c']);
    expect(error.message).toBe(
      'f: no response to 2 of 3 prompts (--allow-missing counts them as failures):\n  b: "prompt b, asked"\n  c: "prompt c, asked"',
    );
  });

  it('names prompts with several responses', () => {
    const twice = file(
      { prompt: 'prompt a', response: 'A' },
      { prompt: 'x', response: '' },
      { prompt: 'prompt a', response: 'A' },
    );
    expect(() => matchResponses(twice, 'f', items)).toThrow(
      'f: several responses to the same prompt:\n  lines 1 and 3: "prompt a"',
    );
  });

  it.each([
    [{ prompt: 'a' }, /f:1: response must be a text, got nothing/],
    [{ prompt: 3, response: 'x' }, /f:1: prompt must be a text, got 3/],
    [{ prompt: 'a', response: null }, /f:1: response must be a text, got null/],
    ['text', /f:1: expected an object/],
    [null, /f:1: expected an object/],
    [[], /f:1: expected an object/],
  ])('refuses the row %j', (row, expected) => {
    expect(() => matchResponses(file(row), 'f', items)).toThrow(expected);
  });
});
