import { expect, it } from 'vitest';
import { AsyncRolloutEngine } from '../../../src/rollout/async-engine.js';
import type { Completion, GenerateOptions, RolloutEngine } from '../../../src/rollout/engine.js';

/** An engine whose completions name the weights and the seed that they came from. */
function fakeEngine() {
  let version = 0;
  const asked: { seed: number; version: number; signal: AbortSignal | undefined }[] = [];
  const engine = {
    get version() {
      return version;
    },
    async generate(prompts: readonly Int32Array[], { seed = 0, signal }: GenerateOptions): Promise<Completion[][]> {
      const at = version;
      asked.push({ seed, version: at, signal });
      await Promise.resolve();
      if (seed === 13) throw new Error('unlucky');
      const empty = { completionIds: new Int32Array(), logProbs: new Float32Array(), stopReason: 'stop' as const };
      return prompts.map(() => [{ ...empty, text: `seed ${seed}`, version: at }]);
    },
    async weightsChanged() {
      version++;
    },
  } satisfies RolloutEngine;
  return { engine, asked };
}

const prompts = [Int32Array.of(1, 2), Int32Array.of(3)];
const options = (seed: number) => ({ maxNewTokens: 4, seed });

it('gives what was begun before the update to the call that asks for it', async () => {
  const { engine, asked } = fakeEngine();
  const ahead = new AsyncRolloutEngine(engine);
  ahead.prefetch(prompts, options(1));
  ahead.prefetch(prompts, options(1));
  await ahead.weightsChanged(1);
  const groups = await ahead.generate(prompts, options(1));
  expect(groups.map(([completion]) => completion!.version)).toEqual([0, 0]);
  expect(asked.map(({ seed }) => seed)).toEqual([1]);
  expect(ahead.version).toBe(1);
  // It is used once, and only for the same question.
  ahead.prefetch(prompts, options(2));
  expect((await ahead.generate(prompts, options(3)))[0]![0]).toMatchObject({ text: 'seed 3', version: 1 });
  expect((await ahead.generate(prompts.slice(1), options(2)))[0]![0]!.text).toBe('seed 2');
  expect((await ahead.generate(prompts, options(1)))[0]![0]!.version).toBe(1);
});

it('samples again what has become too old', async () => {
  const { engine, asked } = fakeEngine();
  const ahead = new AsyncRolloutEngine(engine, { maxStaleness: 2 });
  ahead.prefetch(prompts, options(1));
  ahead.prefetch(prompts, options(2));
  for (let step = 1; step <= 2; step++) await ahead.weightsChanged(step);
  expect((await ahead.generate(prompts, options(1)))[0]![0]!.version).toBe(0);
  await ahead.weightsChanged(3);
  expect((await ahead.generate(prompts, options(2)))[0]![0]!.version).toBe(3);
  expect(asked.map(({ version }) => version)).toEqual([0, 0, 3]);
});

it('an error comes out where the completions are asked for, and closing gives up the rest', async () => {
  const { engine, asked } = fakeEngine();
  const ahead = new AsyncRolloutEngine(engine);
  ahead.prefetch(prompts, options(13));
  await expect(ahead.generate(prompts, options(13))).rejects.toThrow('unlucky');
  ahead.prefetch(prompts, options(5));
  await ahead.close();
  expect(asked.at(-1)!.signal!.aborted).toBe(true);
});

it('refuses an engine that shares the weights of the policy', () => {
  const { engine } = fakeEngine();
  expect(() => new AsyncRolloutEngine({ generate: engine.generate })).toThrow(/weights of its own/);
  expect(() => new AsyncRolloutEngine(engine, { maxStaleness: 0 })).toThrow(/maxStaleness/);
});
