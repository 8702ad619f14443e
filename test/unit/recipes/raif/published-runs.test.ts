import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { trainRunSchema, withLists } from '../../../../src/cli/run-config.js';
import { knownModel } from '../../../../src/recipes/raif/models.js';
import { publishedRuns, renderRun, runsTable } from '../../../../src/recipes/raif/published-runs.js';
import { grpoConfigSchema } from '../../../../src/trainer/config.js';
import { parseConfig, parseGRPOConfig } from '../../../../src/trainer/parse-config.js';
import { parameterCount, planRun } from '../../../../src/trainer/plan.js';

const folder = new URL('../../../../recipes/raif/', import.meta.url);
const guide = readFileSync(new URL('../../../../docs/raif.md', import.meta.url), 'utf8');
const options = (name: string) =>
  parseConfig(trainRunSchema, withLists(parse(readFileSync(new URL(`${name}.yaml`, folder), 'utf8'))));

it('has seven main runs and seven ablations, each with a file and nothing beside', () => {
  const ablations = publishedRuns.filter(({ name }) => name.startsWith('ablation-'));
  expect([publishedRuns.length, ablations.length]).toEqual([14, 7]);
  expect(readdirSync(folder).toSorted()).toEqual(publishedRuns.map(({ name }) => `${name}.yaml`).toSorted());
});

it('gives each run a folder of its own', () => {
  const folders = publishedRuns.map(({ name }) => options(name).outputDir);
  expect(new Set(folders).size).toBe(14);
  publishedRuns.forEach(({ name }, i) => {
    expect(folders[i]).toMatch(new RegExp(`/raif-${name}$`));
  });
});

it('stands in the guide as a table', () => {
  expect(guide).toContain(runsTable());
});

describe.each(publishedRuns.map((run) => [run.name, run] as const))('recipes/raif/%s.yaml', (name, run) => {
  it('is what the generator writes', () => {
    expect(readFileSync(new URL(`${name}.yaml`, folder), 'utf8')).toBe(renderRun(run));
  });

  it('is a configuration of which two updates use a rollout of 256 replies', () => {
    const all = options(name);
    const own = Object.fromEntries(
      Object.keys(grpoConfigSchema.shape).map((key) => [key, all[key as keyof typeof all]]),
    );
    const config = parseGRPOConfig(own);
    expect(planRun(config, 3200)).toMatchObject({
      promptsPerGeneration: 32,
      completionsPerGeneration: 256,
      completionsPerUpdate: 128,
      updatesPerGeneration: 2,
      demonstrationsPerUpdate: config.sftCoefficient > 0 ? 128 : 0,
      directCompletions: config.contrast ? 2 : 0,
      totalUpdates: 6000,
    });
    expect(config.sftCoefficient > 0).toBe(all.demonstrations.length > 0);
    expect(knownModel(all.model.split('/').at(-1)!)).not.toBeNull();
  });
});

/** In billions, as the models' own pages say. */
it.each([
  ['Qwen2.5-1.5B-Instruct', 1.54],
  ['DeepSeek-R1-Distill-Qwen-1.5B', 1.78],
  ['Qwen2.5-7B-Instruct', 7.62],
  ['Llama-3.1-8B-Instruct', 8.03],
  ['Ministral-8B-Instruct-2410', 8.02],
])('knows that %s has %d billion parameters', (name, billions) => {
  expect(parameterCount(knownModel(name)!) / 1e9).toBeCloseTo(billions, 2);
});
