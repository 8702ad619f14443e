import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadRewards } from '../../../src/cli/rewards.js';
import { ConfigError } from '../../../src/trainer/parse-config.js';

let module = '';
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-rewards-'));
  module = join(folder, 'mine.mjs');
  const source = `export const ones = (batch) => batch.map(() => 1);
    export default { name: 'packaged', weight: 3, score: (batch) => batch.map(() => 0) };
    export const version = 1;`;
  await writeFile(module, source);
});
afterAll(() => rm(folder, { recursive: true }));

const sample = {
  record: { prompt: '1+1=' },
  prompt: '1+1=',
  completion: '<think>a</think><answer>2</answer>',
  completionIds: new Int32Array(10),
  stopReason: 'stop' as const,
};

async function problemsOf(entry: string | Record<string, unknown>): Promise<readonly string[]> {
  const error = await loadRewards(['format', entry]).catch((caught) => caught);
  expect(error).toBeInstanceOf(ConfigError);
  return (error as ConfigError).problems;
}

describe('loadRewards', () => {
  it('makes built-in rewards by name, with options and weight', async () => {
    const [format, length] = await loadRewards(['format', { name: 'length', target: 20, weight: 0.5, timeoutMs: 9 }]);
    expect(await format!.score([sample])).toEqual([1]);
    expect(await length!.score([sample])).toEqual([0.5]);
    expect(length).toMatchObject({ name: 'length', weight: 0.5, timeoutMs: 9 });
  });

  it('makes every built-in that needs no options', async () => {
    const rewards = await loadRewards(['format', 'maths', { name: 'regex', pattern: '^<' }]);
    expect(rewards.map((reward) => reward.name)).toEqual(['format', 'maths', 'regex']);
    const record = { prompt: '1+1=', answer: '2' };
    expect(await rewards[1]!.score([{ ...sample, record, completion: 'so \\boxed{2}' }])).toEqual([1]);
    expect(await rewards[2]!.score([sample])).toEqual([1]);
  });

  it('loads a function or a reward from a module', async () => {
    const [ones, packaged, renamed] = await loadRewards([
      `${module}#ones`,
      module,
      { module: `${module}#ones`, name: 'uno', weight: 2 },
    ]);
    expect(ones).toMatchObject({ name: 'ones' });
    expect(await ones!.score([sample, sample])).toEqual([1, 1]);
    expect(packaged).toMatchObject({ name: 'packaged', weight: 3 });
    expect(renamed).toMatchObject({ name: 'uno', weight: 2 });
  });

  it.each([
    ['formatt', /^rewards\[1\]: unknown reward "formatt"; did you mean format\?$/],
    [{ name: 'zzzzzzzz' }, /built in are format, /],
    [{ name: 'length' }, /^rewards\[1\]\.target: /],
    [{ name: 'length', target: 5, tolerence: 1 }, /^rewards\[1\]\.tolerence: unknown option; did you mean tolerance\?/],
    [{ name: 'format', weight: 'high' }, /^rewards\[1\]\.weight: /],
    ['./absent.mjs', /^rewards\[1\]: cannot load /],
  ])('says what is wrong with %j', async (entry, expected) => {
    const problems = await problemsOf(entry);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(expected);
  });

  it('says what a module exports when the name is not there or no reward', async () => {
    expect((await problemsOf(`${module}#missing`))[0]).toContain('it exports default, ones, version');
    expect((await problemsOf(`${module}#version`))[0]).toContain('exports no function or reward named version');
  });
});
