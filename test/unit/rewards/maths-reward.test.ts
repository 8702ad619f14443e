import { describe, expect, it } from 'vitest';
import { mathsReward } from '../../../src/rewards/maths-reward.js';
import { sample } from './samples.js';

const withAnswer = (completion: string, answer: unknown) => sample(completion, { record: { prompt: 'p', answer } });

describe('mathsReward', () => {
  it('compares with the reference of the row', async () => {
    const batch = [
      withAnswer('so it is \\boxed{1/2}', '0.5'),
      withAnswer('#### 1,200', 1200),
      withAnswer('it is 7', '8'),
      withAnswer('no idea', '8'),
      withAnswer('it is 72', 'He sold 48+24 = 72.\n#### 72'),
    ];
    expect(await mathsReward().score(batch)).toEqual([1, 1, 0, 0, 1]);
  });

  it('looks only between the tags when it is told so', async () => {
    const reward = mathsReward({ tag: 'answer', field: 'truth' });
    const row = (completion: string) => sample(completion, { record: { prompt: 'p', truth: '4' } });
    const batch = [row('<answer>4</answer>'), row('4 <answer>5</answer>'), row('4')];
    expect(await reward.score(batch)).toEqual([1, 0, 0]);
  });

  it('cannot score a row without a reference', async () => {
    expect(await mathsReward().score([sample('4'), withAnswer('4', { a: 1 })])).toEqual([Number.NaN, Number.NaN]);
  });
});
