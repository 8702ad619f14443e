import { describe, expect, it } from 'vitest';
import {
  correctReward,
  createData,
  createRewards,
  createTokenizer,
  demonstrate,
  type SumRecord,
} from '../../../../src/recipes/quickstart/task.js';

function sample(record: SumRecord, completion: string) {
  return { record, prompt: record.prompt, completion, completionIds: new Int32Array(1), stopReason: 'stop' as const };
}

/** Gives the numbers in turn, then 0.999: no slip, no forgotten carry, the whole form. */
function numbers(...values: number[]): () => number {
  return () => values.shift() ?? 0.999;
}

describe('the quickstart task', () => {
  const data = createData(1);

  it('keeps held-out prompts apart from all others, and is the same for the same seed', () => {
    const heldOut = new Set(data.heldOut.map((row) => row.prompt));
    expect(heldOut.size).toBe(256);
    expect(data.train).toHaveLength(8100 - 256);
    for (const row of [...data.train, ...data.demonstrations]) expect(heldOut.has(row.prompt!)).toBe(false);
    expect(createData(1)).toEqual(data);
    expect(createData(2).heldOut).not.toEqual(data.heldOut);
  });

  it('works a sum out digit by digit', () => {
    expect(demonstrate(27, 38, numbers())).toBe('<think>7+8=15 2+3+1=6</think><answer>65</answer>');
    expect(demonstrate(90, 12, numbers())).toBe('<think>0+2=2 9+1=10</think><answer>102</answer>');
  });

  it('forgets carries, slips and breaks the form as often as it says', () => {
    expect(demonstrate(27, 38, numbers(0.9, 0.1))).toBe('<think>7+8=15 2+3=5</think><answer>55</answer>');
    expect(demonstrate(27, 38, numbers(0.01, 0.5))).toBe('<think>7+8=9 2+3+1=6</think><answer>69</answer>');
    const carries = data.demonstrations.filter(({ prompt }) => Number(prompt![1]) + Number(prompt![4]) > 9);
    const thoughtful = carries.filter(({ completion }) => completion.includes('<think>'));
    const forgotten = thoughtful.filter(({ completion }) => !completion.includes('+1='));
    // Sums such as 27+31 end in "+1=" too, but only the tens of a carry have two plus signs.
    const share = forgotten.length / thoughtful.length;
    expect(share).toBeGreaterThan(0.5);
    expect(share).toBeLessThan(0.7);
    const score = createRewards()[1]!.score;
    const form = score(data.demonstrations.map((row) => sample(row as unknown as SumRecord, row.completion)));
    const whole = [...(form as number[])].filter((value) => value === 1).length / data.demonstrations.length;
    expect(whole).toBeCloseTo(0.7, 1);
  });

  it('rewards the right answer only inside its tags', () => {
    const row = { prompt: '27+38=', answer: '65' };
    const completions = ['<answer>65</answer>', '<answer>55</answer>', '65', '<answer>65', '<answer>165</answer>'];
    expect(correctReward.score(completions.map((text) => sample(row, text)))).toEqual([1, 0, 0, 0, 0]);
  });

  it('has a tokenizer that gives every text back, a token a tag', () => {
    const tokenizer = createTokenizer();
    for (const { prompt, completion } of data.demonstrations.slice(0, 100)) {
      expect(tokenizer.decode(tokenizer.encode(prompt! + completion))).toBe(prompt! + completion);
    }
    expect(tokenizer.encode('<think>7</think><answer>65</answer>')).toHaveLength(7);
  });
});
