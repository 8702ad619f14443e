import { describe, expect, it } from 'vitest';
import { formatReward, taggedText } from '../../../src/rewards/format.js';
import { lengthReward, overlongPenalty } from '../../../src/rewards/length.js';
import { regexReward } from '../../../src/rewards/regex.js';
import { scoresOf } from './samples.js';

describe('formatReward', () => {
  const good = '<think>a < b\n</think>\n<answer>4</answer>';

  it('is 1 for the whole form and 0 for all else', async () => {
    expect(await scoresOf(formatReward(), good, ` ${good} \n`, '<think></think><answer></answer>')).toEqual([1, 1, 1]);
    const bad = [
      '',
      '4',
      `so ${good}`,
      `${good} done`,
      `${good}${good}`,
      '<think>a</think> hm <answer>4</answer>',
      '<answer>4</answer><think>a</think>',
      '<think>a<answer>4</answer></think>',
      '<think>a</think><answer>4',
      '<think><think>a</think><answer>4</answer>',
    ];
    expect(await scoresOf(formatReward(), ...bad)).toEqual(bad.map(() => 0));
  });

  it('takes a completion that starts inside the first tag', async () => {
    const reward = formatReward({ firstTagOpen: true });
    expect(await scoresOf(reward, 'a</think><answer>4</answer>', good)).toEqual([1, 0]);
  });

  it('counts the marks that are right when it is partial', async () => {
    const reward = formatReward({ partial: true });
    const scores = await scoresOf(reward, good, '<think>a</think> hm <answer>4</answer>', '<think>a</think>', 'a');
    expect(scores).toEqual([1, 0.8, 0.4, 0]);
  });

  it('takes other tags', async () => {
    expect(
      await scoresOf(formatReward({ tags: ['plan', 'code', 'test'] }), '<plan>1</plan><code>2</code><test>3</test>'),
    ).toEqual([1]);
  });
});

describe('taggedText', () => {
  it('is what stands in the last pair', () => {
    expect(taggedText('<answer>1</answer> no: <answer> 2 </answer> end', 'answer')).toBe('2');
    expect(taggedText('<answer>1', 'answer')).toBeUndefined();
    expect(taggedText('1</answer>', 'answer')).toBeUndefined();
  });
});

describe('lengthReward', () => {
  it('falls linearly on both sides of the target', async () => {
    const reward = lengthReward({ target: 4, tolerance: 2 });
    expect(await scoresOf(reward, 'abcd', 'abc', 'ab', '', 'abcde', 'abcdefghi')).toEqual([1, 0.5, 0, 0, 0.5, 0]);
  });

  it.each([{ target: 0 }, { target: -1 }, { target: 4, tolerance: 0 }, { target: Number.NaN }])(
    'rejects %j',
    (options) => {
      expect(() => lengthReward(options)).toThrow(/a number of tokens above 0/);
    },
  );
});

describe('overlongPenalty', () => {
  it('follows equation 13 of DAPO', async () => {
    const reward = overlongPenalty({ maxLength: 6, buffer: 4 });
    const scores = await scoresOf(reward, 'a', 'ab', 'abc', 'abcd', 'abcdef', 'abcdefgh');
    expect(scores).toEqual([0, 0, -0.25, -0.5, -1, -1]);
  });

  it('rejects a buffer that is longer than the completion', () => {
    expect(() => overlongPenalty({ maxLength: 4, buffer: 5 })).toThrow(/at most maxLength \(4\)/);
  });
});

describe('regexReward', () => {
  it('gives the same score however often it is asked', async () => {
    const reward = regexReward({ pattern: /b+/g });
    expect(await scoresOf(reward, 'abb', 'abb', 'abb', 'a')).toEqual([1, 1, 1, 0]);
    expect(await scoresOf(regexReward({ pattern: '^B$', flags: 'i' }), 'b', 'ab')).toEqual([1, 0]);
  });

  it('rejects what is not a regular expression', () => {
    expect(() => regexReward({ pattern: '(' })).toThrow(/a regular expression.*pattern.*"\("/);
    expect(() => regexReward({ pattern: 'a', flags: 'q' })).toThrow(/a regular expression/);
    expect(() => regexReward({ pattern: 4 as unknown as string })).toThrow(/received 4/);
  });
});
