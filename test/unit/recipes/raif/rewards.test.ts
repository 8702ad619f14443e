import { describe, expect, it } from 'vitest';
import { parseRaifPrompts, type RaifRecord } from '../../../../src/recipes/raif/data.js';
import { type RaifRewardOptions, raifRewards } from '../../../../src/recipes/raif/rewards.js';
import { renderPrompt, type TemplateFamily } from '../../../../src/recipes/raif/templates.js';
import type { JudgeModel } from '../../../../src/rewards/judge.js';
import type { Reward } from '../../../../src/rewards/reward.js';
import { scoreBatch } from '../../../../src/rewards/score.js';
import { withoutThinkingRoom } from '../../../../src/trainer/contrast.js';

function record(task: string, target: unknown, family: TemplateFamily = 'qwen'): RaifRecord {
  const input = renderPrompt(family, { user: 'Do it.' });
  const text = JSON.stringify({ input, task, target: typeof target === 'string' ? target : JSON.stringify(target) });
  return parseRaifPrompts(text, 'rows.jsonl').records[0]!;
}
const maths = record('default', '\\frac{1}{2}');
const instructions = {
  instruction_id_list: ['punctuation:no_comma', 'keywords:existence', 'detectable_format:title', 'startend:quotation'],
  kwargs: [{}, { keywords: ['tree'] }, {}, {}],
};
const ifeval = record('ifeval', instructions);
const complex = record('complex', { scoring_questions: ['Is it short?', 'Does it rhyme?'] });

async function score(
  row: RaifRecord,
  completion: string,
  { direct = false, ...options }: RaifRewardOptions & { direct?: boolean } = {},
) {
  const prompt = direct ? withoutThinkingRoom(row.prompt) : row.prompt;
  const sample = { record: row, prompt, completion, completionIds: Int32Array.of(1), stopReason: 'stop' as const };
  const { totals, scores } = await scoreBatch(raifRewards(options), [sample]);
  const [answer, format, accuracy, met] = ['answer', 'format', 'accuracy', 'constraints_met'].map(
    (name) => scores[name]![0],
  );
  return { total: totals[0], answer, format, accuracy, met };
}
const reply = (answer: string, thinking = 'Let me see.') => `${thinking}</think>\n<answer>${answer}</answer>`;

describe('maths', () => {
  it.each([
    [reply('\\boxed{0.5}'), 3, 2, 1, 1],
    ['well</think>\\boxed{1/2}', 1, 2, -1, 1],
    [reply('\\boxed{3}'), -0.5, -1.5, 1, 0],
    ['well</think>\\boxed{3}', -2.5, -1.5, -1, 0],
    [reply('It is 1/2.'), -1, -2, 1, 0],
    ['well</think>no idea', -3, -2, -1, 0],
  ])('%j has the total %d', async (completion, total, answer, format, accuracy) => {
    expect(await score(maths, completion)).toEqual({ total, answer, format, accuracy, met: null });
  });

  it('takes the answer from the answer, not from the thinking; the released form does', async () => {
    const astray = reply('\\boxed{7}', 'perhaps \\boxed{1/2}');
    expect(await score(maths, astray)).toMatchObject({ answer: -1.5, accuracy: 0 });
    const boxedInThought = reply('one half', 'so \\boxed{1/2}');
    expect(await score(maths, boxedInThought)).toMatchObject({ answer: -2, accuracy: 0 });
    expect(await score(maths, boxedInThought, { released: true })).toMatchObject({ answer: 2, accuracy: 1 });
  });

  it('agrees with its own accuracy where nothing is boxed; the released form does not', async () => {
    const unboxed = reply('1/2');
    expect(await score(maths, unboxed)).toMatchObject({ answer: -2, accuracy: 0 });
    expect(await score(maths, unboxed, { released: true })).toMatchObject({ answer: -2, accuracy: 1 });
  });
});

describe('instructions with rules', () => {
  it.each([
    ['"<<A tree>> grows"', 3, 2, 4],
    ['<<A tree>> grows', 1.75, 0.75, 3],
    ['a tree, a bush', 1.25, 0.25, 1],
    ['a bush, a bush', -1, -2, 0],
  ])('%j has the total %d', async (answer, total, expected, met) => {
    const got = await score(ifeval, reply(answer));
    expect(got).toEqual({ total, answer: expected, format: 1, accuracy: met / 4, met });
  });

  it.each([
    ['a tree without tags', -3, -1],
    [reply('a tree', ''), -1, 1],
    [reply('a tree', ' reasoning process here '), -1, 1],
    [reply(''), -1, 1],
    [`${reply('a tree')}<answer>again</answer>`, -3, -1],
  ])('%j fails as a whole', async (completion, total, format) => {
    expect(await score(ifeval, completion)).toEqual({ total, answer: -2, format, accuracy: 0, met: null });
  });

  it('judges a reply without thinking by its answer alone; the released form fails it', async () => {
    const completion = '<answer>"<<A tree>> grows"</answer>';
    expect(await score(ifeval, completion, { direct: true })).toMatchObject({ total: 3, met: 4 });
    expect(await score(ifeval, completion)).toMatchObject({ total: -3 });
    expect(await score(complex, completion, { direct: true, released: true })).toMatchObject({ total: -1, answer: -2 });
  });

  it('gives nothing for any reply in the released form, whose checker reads the label', async () => {
    const perfect = reply('"<<A tree>> grows"');
    expect(await score(ifeval, perfect, { released: true })).toMatchObject({ total: -1, accuracy: 0, met: null });
  });

  it('does not ask rows without format for tags', async () => {
    const free = record('ifeval_woFormat', instructions);
    expect(await score(free, '"<<A tree>> grows"')).toMatchObject({ total: 3, format: 1, met: 4 });
  });

  it('takes what follows the thinking with the template of DeepSeek', async () => {
    const deepseek = record('ifeval', instructions, 'deepseek');
    expect(await score(deepseek, 'hm</think>"<<A tree>> grows"')).toMatchObject({ total: 3 });
  });
});

describe('instructions for a judge', () => {
  const asked: string[] = [];
  const judge = (...verdicts: (boolean | null)[]): JudgeModel => {
    let next = 0;
    return {
      answer: async (messages) => {
        asked.push(messages.map(({ content }) => content).join('|'));
        const verdict = verdicts[next++]!;
        return verdict === null ? { problem: 'tie', message: 'a tie' } : verdict ? 'yes' : 'no';
      },
    };
  };

  it.each([
    [[true, true], 3, 2, 2],
    [[true, false], 1.5, 0.5, 1],
    [[false, false], -1, -2, 0],
  ])('%j has the total %d', async (verdicts, total, answer, met) => {
    const got = await score(complex, reply('brief'), { judge: judge(...verdicts) });
    expect(got).toEqual({ total, answer, format: 1, accuracy: met / 2, met });
  });

  it('shows the conversation with the answer alone, once a question', async () => {
    asked.length = 0;
    await score(complex, reply('brief', 'secret'), { judge: judge(true, true) });
    expect(asked).toHaveLength(2);
    expect(asked[0]).toMatch(/Do it\..*brief.*Is it short\?/s);
    expect(asked.join()).not.toMatch(/secret|im_start/);
  });

  it('cannot score a reply without a verdict, nor any without a judge', async () => {
    expect(await score(complex, reply('brief'), { judge: judge(true, null) })).toMatchObject({ total: Number.NaN });
    expect(await score(complex, reply('brief'))).toMatchObject({ total: Number.NaN });
    expect(await score(complex, 'no tags')).toMatchObject({ total: -3 });
  });

  it('loses only the replies that a slow judge did not answer in time', async () => {
    const slow: JudgeModel = {
      answer: (messages) =>
        /gets stuck/.test(messages.at(-1)!.content) ? new Promise(() => {}) : Promise.resolve('yes'),
    };
    const samples = [maths, complex, complex].map((row, i) => ({
      record: row,
      prompt: row.prompt,
      completion: reply(['\\boxed{1/2}', 'brief', 'gets stuck'][i]!),
      completionIds: Int32Array.of(1),
      stopReason: 'stop' as const,
    }));
    const { totals, failures } = await scoreBatch(raifRewards({ judge: slow, timeoutMs: 50 }), samples);
    expect([...totals]).toEqual([3, 3, Number.NaN]);
    expect(failures).toEqual([]);
  });
});

it('refuses rows before training that it could never score', () => {
  const [{ check }] = raifRewards() as [Reward];
  expect(() => check!(complex)).toThrow(/rows.jsonl:1 asks questions.*without a judge/);
  expect(() => check!({ prompt: 'plain' })).toThrow(/not read as RAIF data/);
  for (const row of [maths, ifeval]) expect(() => check!(row)).not.toThrow();
});

it('adds a penalty for repetition where it has a weight', async () => {
  const completionIds = Int32Array.from({ length: 17 }, () => 5);
  const sample = {
    record: maths,
    prompt: maths.prompt,
    completion: reply('\\boxed{0.5}'),
    completionIds,
    stopReason: 'stop' as const,
  };
  const { totals, scores } = await scoreBatch(raifRewards({ repetition: 0.1 }), [sample]);
  // Ten 8-grams, one of them distinct.
  expect(scores.repetition).toEqual([-0.9]);
  expect(totals[0]).toBeCloseTo(3 - 0.09, 12);
  const short = await scoreBatch(raifRewards({ repetition: 0.1 }), [{ ...sample, completionIds: Int32Array.of(1) }]);
  expect(short.scores.repetition).toEqual([0]);
});
