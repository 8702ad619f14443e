import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { openDevice } from '../../../../src/backend/open-device.js';
import '../../../../src/platform/node.js';
import { type GoldenRun, goldenRun } from './golden-run.js';

// Recorded by scripts/fixtures/raif-golden-run.ts with the baseline instruction set and the built-in matrix product.
const file = new URL('../../../fixtures/recipes/raif-golden-run.json', import.meta.url);
const recorded: GoldenRun = JSON.parse(readFileSync(file, 'utf8'));

/** A number for each name, so that a difference is named. */
function flatten({ metrics, ...others }: GoldenRun['updates'][number]): Record<string, number> {
  return { ...others, ...metrics };
}

// Another instruction set rounds differently, and in a few thousand draws that may change one.
it.each([1, 3])(
  "RAIF's recipe gives its recorded completions, verdicts and metrics, with %d threads",
  async (threads) => {
    using device = await openDevice('cpu', { isa: 'baseline', matmul: 'builtin', threads });
    const run = await goldenRun(device);
    expect(device.memory().liveTensors).toBe(0);
    // As JSON has them: NaN, for what the judge gave no verdict on, is null.
    expect(JSON.parse(JSON.stringify(run.verdicts))).toEqual(recorded.verdicts);
    expect(run.updates).toHaveLength(recorded.updates.length);
    for (const [i, update] of recorded.updates.entries()) {
      const want = flatten(update);
      const got = flatten(run.updates[i]!);
      expect(Object.keys(got).sort()).toEqual(Object.keys(want).sort());
      // To 1 in 100,000, should a compiler order its sums in another way.
      const far = Object.keys(want).filter(
        (name) => !(Math.abs(got[name]! - want[name]!) <= 1e-5 * Math.abs(want[name]!) + 1e-7),
      );
      expect(far.map((name) => `update ${i + 1}: ${name} is ${got[name]}, not ${want[name]}`)).toEqual([]);
    }
  },
);

it('has everything in it that the recipe is about', () => {
  const { updates, verdicts } = recorded;
  const scores = new Set(verdicts.map(({ rewards }) => rewards.answer));
  for (const score of [2, -1.5, -2, null]) expect(scores).toContain(score);
  expect([...scores].some((score) => typeof score === 'number' && score > 0 && score < 1)).toBe(true);
  expect(verdicts.some(({ prompt }) => prompt.endsWith('</think>\n'))).toBe(true);
  const highest = (name: string) => Math.max(...updates.map(({ metrics }) => metrics[name] ?? 0));
  for (const name of ['contrast/below_reference', 'contrast/worse_group', 'kl', 'policy_kl', 'sft_loss']) {
    expect(highest(name)).toBeGreaterThan(0);
  }
});
