import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import * as package_ from '../../../src/index.js';

function page(name: string): string {
  return readFileSync(new URL(`../../../docs/${name}`, import.meta.url), 'utf8');
}

test('the example of docs/kernels.md runs', async () => {
  const [, example] = /```ts\n([\s\S]*?)```/.exec(page('kernels.md'))!;
  const [, imported] = /import \{ ([^}]*) \} from 'grpo-native';/.exec(example!)!;
  const names = imported!.split(', ');
  const body = example!.replace(/import .*;/, '');
  const printed: unknown[][] = [];
  const values = names.map((name) => (package_ as Record<string, unknown>)[name]);
  const AsyncFunction = (async () => {}).constructor as new (
    ...parts: string[]
  ) => (...values: unknown[]) => Promise<void>;
  await new AsyncFunction(...names, 'console', body)(...values, { log: (...line: unknown[]) => printed.push(line) });
  const [[loss, metrics, gradLogits]] = printed as [[Float32Array, Record<string, number>, Float32Array]];
  expect(loss.length).toBe(1);
  expect(Number.isFinite(loss[0])).toBe(true);
  expect(metrics.entropy).toBeGreaterThan(0);
  expect(gradLogits.length).toBe(35);
  expect(gradLogits.some((x) => x !== 0)).toBe(true);
});

test('docs/paper-index.md names options that exist', () => {
  const index = page('paper-index.md');
  const source = ['policy-options.ts', 'advantages.ts'].map((file) =>
    readFileSync(new URL(`../../../src/kernels/${file}`, import.meta.url), 'utf8'),
  );
  const options = [...index.matchAll(/`(\w+): /g)].map(([, name]) => name!);
  expect(new Set(options).size).toBeGreaterThan(12);
  for (const option of options) expect(source.join('\n')).toMatch(new RegExp(`^  ${option}\\?:`, 'm'));
  const types = [...index.matchAll(/lossType: '(\w+)'/g)].map(([, type]) => type!);
  expect(new Set(types)).toEqual(new Set([...package_.lossTypes].filter((type) => type !== 'bnpo')));
});
