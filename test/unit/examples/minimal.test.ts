import { readFileSync } from 'node:fs';
import { afterEach, expect, it, vi } from 'vitest';
import type { Completion } from '../../../src/rollout/engine.js';

afterEach(() => {
  vi.restoreAllMocks();
});

it('fifteen lines of TypeScript train a model', async () => {
  const path = new URL('../../../examples/minimal.ts', import.meta.url);
  expect(readFileSync(path, 'utf8').trimEnd().split('\n').length).toBeLessThanOrEqual(15);
  const said: unknown[][] = [];
  vi.spyOn(console, 'log').mockImplementation((...values) => said.push(values));
  await import(path.pathname);
  const rewards = said.slice(0, 30).map(([, reward]) => reward as number);
  expect(rewards[0]).toBeLessThan(0.6);
  expect(rewards.at(-1)).toBeGreaterThan(0.9);
  const [[answer]] = said.at(-1)![0] as [[Completion]];
  expect(answer.text).toMatch(/^[02468]{1,8}$/);
});
