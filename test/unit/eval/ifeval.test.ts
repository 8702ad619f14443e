import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkResponses, originalResults, parseIFEval, summariseIFEval } from '../../../src/eval/ifeval.js';
import { matchResponses } from '../../../src/eval/responses.js';

const fixture = (name: string) => readFileSync(new URL(`../../fixtures/eval/${name}`, import.meta.url), 'utf8');
const lines = (text: string) => text.trimEnd().split('\n');
const items = parseIFEval(fixture('input_data.jsonl'), 'input_data.jsonl');
const askable = items.map(({ id, prompt }) => ({ id, prompts: [prompt] }));
const { rows } = matchResponses(fixture('responses.jsonl'), 'responses.jsonl', askable);
const verdicts = checkResponses(items, rows);

describe('IFEval', () => {
  // The verdicts in these files were written by hand.
  it.each(['strict', 'loose'] as const)('gives the known verdicts: %s', (mode) => {
    const results = originalResults(verdicts, mode).map((row) => JSON.stringify(row));
    expect(results).toEqual(lines(fixture(`eval_results_${mode}.jsonl`)));
  });

  it('counts prompts, instructions and kinds', () => {
    const { strict, loose, ...rest } = summariseIFEval(verdicts);
    expect(rest).toMatchObject({ prompts: 7, instructions: 10, missing: 0 });
    expect(strict.promptLevel).toMatchObject({ hits: 2, count: 7, value: 2 / 7 });
    expect(strict.instructionLevel).toMatchObject({ hits: 5, count: 10, value: 0.5 });
    expect(loose.promptLevel).toMatchObject({ hits: 4, count: 7 });
    expect(loose.instructionLevel).toMatchObject({ hits: 7, count: 10 });
    expect(strict.byInstruction['punctuation:no_comma']).toMatchObject({ hits: 1, count: 3 });
    expect(strict.byGroup.keywords).toMatchObject({ hits: 1, count: 2 });
    expect(Object.keys(strict.byGroup)).toEqual([
      'change_case',
      'detectable_format',
      'keywords',
      'length_constraints',
      'punctuation',
      'startend',
    ]);
  });

  it('counts what is missing as followed by none', () => {
    const [first] = checkResponses(items.slice(0, 1), new Map());
    expect(first).toMatchObject({ missing: true, strict: [false], loose: [false] });
    expect(summariseIFEval([first!]).missing).toBe(1);
  });

  it('checks the part of a response that is its answer', () => {
    const verdict = (response: string, part: object) => {
      return checkResponses(items.slice(0, 1), new Map([['100', { response }]]), part)[0]!;
    };
    expect(verdict('<think>a, b</think> Danube', { afterThink: true })).toMatchObject({
      answer: 'Danube',
      strict: [true],
    });
    expect(verdict('<think>a, b</think> Danube', {}).strict).toEqual([false]);
    expect(verdict('<think>never ends', { afterThink: true })).toMatchObject({ answer: '', strict: [false] });
    expect(verdict('a, b <answer>Rhine</answer>', { tag: 'answer' })).toMatchObject({
      answer: 'Rhine',
      strict: [true],
    });
    expect(verdict('Rhine', { tag: 'answer' }).strict).toEqual([false]);
  });

  const row = { key: 1, prompt: 'p', instruction_id_list: ['punctuation:no_comma'], kwargs: [{}] };
  it.each([
    ['no prompt', { ...row, prompt: undefined }, /data:2: prompt must be a text/],
    [
      'an unknown instruction',
      { ...row, instruction_id_list: ['punctuation:no_full_stop'] },
      /data:2: Expected one of/,
    ],
    ['kwargs of another number', { ...row, kwargs: [] }, /data:2: Expected 1 objects, one an instruction/],
    ['a parameter that does not exist', { ...row, kwargs: [{ count: 1 }] }, /data:2: Expected no parameters for count/],
    ['no instructions', { ...row, instruction_id_list: [], kwargs: [] }, /data:2: instruction_id_list is empty/],
    ['a key of another type', { ...row, key: [] }, /data:2: key must be/],
    ['a key that occurred', { ...row, key: 0 }, /data:2: the key 0 occurs twice/],
    ['a list', [], /data:2: prompt must be/],
  ])('refuses %s with its line', (_, bad, expected) => {
    const text = [{ ...row, key: 0 }, bad].map((value) => JSON.stringify(value)).join('\n');
    expect(() => parseIFEval(text, 'data')).toThrow(expected);
  });

  it('names rows without keys by their lines', () => {
    const text = `\n${JSON.stringify({ ...row, key: undefined })}`;
    expect(parseIFEval(text, 'data').map(({ id }) => id)).toEqual(['line 2']);
  });

  const original = new URL('../../../../shared/data/ifeval/input_data.jsonl', import.meta.url);
  it.runIf(existsSync(original))('reads and checks all of the original data', () => {
    const data = parseIFEval(readFileSync(original, 'utf8'), 'input_data.jsonl');
    expect(data.length).toBeGreaterThan(500);
    const answers = ['A short answer.', '"quoted, with a comma"', '* one\n* two\n\nP.S. *more* [name]', '<<title>>'];
    const responses = new Map(data.map(({ id }, i) => [id, { response: answers[i % answers.length]! }]));
    const checked = checkResponses(data, responses);
    for (const { strict, loose } of checked) {
      // One of the loose variants is the response itself.
      expect(strict.map((verdict, i) => verdict && !loose[i])).not.toContain(true);
    }
    const commas = checked.filter(({ item }) => item.instructionIds.includes('punctuation:no_comma'));
    expect(commas.length).toBeGreaterThan(50);
    for (const { item, strict, answer } of commas) {
      expect(strict[item.instructionIds.indexOf('punctuation:no_comma')]).toBe(!answer.includes(','));
    }
    expect(summariseIFEval(checked).instructions).toBe(data.flatMap(({ kwargs }) => kwargs).length);
  });
});
