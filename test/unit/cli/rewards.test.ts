import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadRewards, resolveRewardPath } from '../../../src/cli/rewards.js';
import '../../../src/platform/node.js';
import { ConfigError } from '../../../src/trainer/parse-config.js';

let module = '';
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-rewards-'));
  module = join(folder, 'mine.mjs');
  const source = `export const ones = (batch) => batch.map(() => 1);
    export default { name: 'packaged', weight: 3, score: (batch) => batch.map(() => 0) };
    export const version = 1;
    export const hangs = (batch) => { for (;;); };
    class Made { name = 'made'; score(batch) { return batch.map(() => this.value()); } value() { return 4; } }
    export const made = new Made();`;
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

  it('keeps the methods of a reward that is an instance', async () => {
    const [made] = await loadRewards([`${module}#made`]);
    expect(made!.name).toBe('made');
    expect(await made!.score([sample])).toEqual([4]);
  });

  it('runs a module in threads, which it ends', async () => {
    const [packaged, hangs] = await loadRewards([
      { module, pool: { size: 1 }, weight: 2 },
      { module: `${module}#hangs`, pool: { timeoutMs: 200 }, timeoutMs: 9000 },
    ]);
    expect(packaged).toMatchObject({ name: 'packaged', weight: 2, timeoutMs: Number.POSITIVE_INFINITY });
    expect(await packaged!.score([sample])).toEqual([0]);
    expect(hangs).toMatchObject({ name: 'hangs', timeoutMs: 9000 });
    await expect(hangs!.score([sample])).rejects.toThrow('no scores after 200 ms');
    for (const reward of [packaged, hangs]) await reward!.close!();
  });

  it('makes a judge that checks rows and keeps its own time', async () => {
    const [judge] = await loadRewards([{ name: 'judge', model: 'folder', weight: 3, timeoutMs: 5, field: 'asks' }]);
    expect(judge).toMatchObject({ name: 'judge', weight: 3, timeoutMs: Number.POSITIVE_INFINITY });
    judge!.check!({ prompt: 'a' });
    expect(() => judge!.check!({ prompt: 'a', asks: [] })).toThrow(/asks/);
    await expect(judge!.score([{ ...sample, record: { prompt: 'a', asks: ['b?'] } }])).rejects.toThrow(/not opened/);
  });

  it('finds the folders of judges beside the configuration', () => {
    const url = 'http://127.0.0.1:1';
    const server = { url, model: 'm', tokenizer: 't' };
    expect(resolveRewardPath({ name: 'judge', model: 'm' }, '/conf')).toEqual({
      name: 'judge',
      model: resolve('/conf/m'),
    });
    expect(resolveRewardPath({ name: 'raif', judge: server }, '/conf')).toEqual({
      name: 'raif',
      judge: { url, model: 'm', tokenizer: resolve('/conf/t') },
    });
  });

  it.each([
    ['formatt', /^rewards\[1\]: unknown reward "formatt"; did you mean format\?$/],
    [{ name: 'zzzzzzzz' }, /built in are format, /],
    [{ name: 'length' }, /^rewards\[1\]\.target: /],
    [{ name: 'length', target: 5, tolerence: 1 }, /^rewards\[1\]\.tolerence: unknown option; did you mean tolerance\?/],
    [{ name: 'format', weight: 'high' }, /^rewards\[1\]\.weight: /],
    ['./absent.mjs', /^rewards\[1\]: cannot load /],
    [{ module: 'x.mjs', pool: { siz: 1 } }, /^rewards\[1\]\.pool\.siz: unknown option; did you mean size\?/],
    [{ module: 'x.mjs', pool: { timeoutMs: 0 } }, /^rewards\[1\]\.pool\.timeoutMs: /],
    [{ name: 'judge' }, /^rewards\[1\]\.model: /],
    [{ name: 'judge', model: 'm', method: 'text' }, /^rewards\[1\]\.method: needs url/],
    [{ name: 'judge', model: 'm', url: 'ftp://x' }, /^rewards\[1\]\.url: must be an http address/],
    [{ name: 'judge', model: 'm', url: 'http://x', tokenizer: 't' }, /^rewards\[1\]\.maxTokens: tokenizer needs it/],
    [{ name: 'judge', model: 'm', url: 'http://x', method: 'log-probs' }, /^rewards\[1\]\.tokenizer: method log-probs/],
    [
      { name: 'raif', judge: { model: 'm', url: 'http://x', apiKeyEnv: 'NO_SUCH_KEY' } },
      /^rewards\[1\]\.judge\.apiKeyEnv: /,
    ],
  ])('says what is wrong with %j', async (entry, expected) => {
    const problems = await problemsOf(entry);
    expect(problems).toHaveLength(1);
    expect(problems[0]).toMatch(expected);
  });

  it('says what a module exports when the name is not there or no reward', async () => {
    expect((await problemsOf(`${module}#missing`))[0]).toContain('it exports default, hangs, made, ones, version');
    expect((await problemsOf(`${module}#version`))[0]).toContain('exports no function or reward named version');
  });
});
