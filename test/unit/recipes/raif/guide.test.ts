import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { loadRewards } from '../../../../src/cli/rewards.js';
import { trainRunSchema, trainSources, withLists } from '../../../../src/cli/run-config.js';
import { grpoConfigSchema } from '../../../../src/trainer/config.js';
import { configOptions, parseConfig, parseGRPOConfig } from '../../../../src/trainer/parse-config.js';
import { planRun } from '../../../../src/trainer/plan.js';

const root = fileURLToPath(new URL('../../../../', import.meta.url));
const guide = readFileSync(`${root}docs/raif.md`, 'utf8');
const faults = [...guide.matchAll(/^\| (B\d+) \|(.*)\|([^|]*)\|$/gm)].map(([, name, , tests]) => ({
  name: name!,
  tests: tests!,
}));

/** The text of a test file, or of all in a folder; undefined where there is none. */
function textOf(name: string): string | undefined {
  const path = `${root}${name.startsWith('test/') ? name : `test/unit/${name}`}`;
  if (existsSync(`${path}.test.ts`)) return readFileSync(`${path}.test.ts`, 'utf8');
  if (!existsSync(path)) return undefined;
  const files = readdirSync(path).filter((file) => file.endsWith('.test.ts'));
  return files.length > 0 ? files.map((file) => readFileSync(`${path}/${file}`, 'utf8')).join('\n') : undefined;
}

it('has all 45 faults, each once', () => {
  expect(faults.map(({ name }) => name)).toEqual(Array.from({ length: 45 }, (_, i) => `B${i + 1}`));
});

it('has its options in the help of grpo train', () => {
  expect(configOptions(trainSources).map(({ name }) => name)).toEqual(
    expect.arrayContaining(['raif', 'demonstrations']),
  );
});

describe.each(faults.filter(({ tests }) => tests.trim() !== ''))('the tests named for $name', ({ tests }) => {
  it.each([...tests.matchAll(/`([^`]+)`(?:: ([^,`]+))?/g)].map(([, path, title]) => [path!, title?.trim()]))(
    '%s has: %s',
    (path, title) => {
      const text = textOf(path!);
      expect(text).toBeDefined();
      if (title) expect(text).toContain(title);
    },
  );
});

it('shows the released behaviour as options that work, with one update a rollout', () => {
  const released = parse(/## The released behaviour\n\n```yaml\n([^`]*)```/.exec(guide)![1]!);
  const base = parse(readFileSync(`${root}recipes/raif/qwen2.5-7b.yaml`, 'utf8'));
  const run = parseConfig(trainRunSchema, withLists({ ...base, ...released }));
  const own = Object.fromEntries(Object.entries(run).filter(([name]) => name in grpoConfigSchema.shape));
  expect(planRun(parseGRPOConfig(own), 3200)).toMatchObject({
    completionsPerUpdate: 256,
    updatesPerGeneration: 1,
    demonstrationsPerUpdate: 256,
  });
});

it('has rewards that a configuration can name', async () => {
  const rewards = await loadRewards([
    { name: 'raif', released: true, repetition: 0.1, judge: { url: 'http://127.0.0.1:1/v1', model: 'm' } },
  ]);
  expect(rewards.map(({ name, weight }) => [name, weight])).toEqual([
    ['answer', 1],
    ['format', 1],
    ['accuracy', 0],
    ['constraints_met', 0],
    ['repetition', 0.1],
  ]);
  await expect(loadRewards([{ name: 'raif', weight: 2 }])).rejects.toThrow(/rewards\[0\].weight: unknown option/);
});
