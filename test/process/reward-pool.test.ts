import { fileURLToPath } from 'node:url';
import { afterEach, expect, it } from 'vitest';
import '../../src/platform/node.js';
import { type PooledReward, type PooledRewardOptions, pooledReward } from '../../src/rewards/pooled.js';
import type { RewardSample } from '../../src/rewards/reward.js';
import { asRewards, scoreBatch } from '../../src/rewards/score.js';
import { runProgram } from './program.js';

const module = fileURLToPath(new URL('programs/rewards.mjs', import.meta.url));
const pools: PooledReward[] = [];
afterEach(async () => {
  for (const pool of pools.splice(0)) await pool.close();
});

function pool(options: Partial<PooledRewardOptions> = {}) {
  const problems: string[] = [];
  const onProblem = ({ reason }: { reason: string }) => problems.push(reason);
  const reward = pooledReward({ module, export: 'troubled', timeoutMs: 500, onProblem, ...options });
  pools.push(reward);
  return { reward, problems };
}

const samples = (...completions: string[]) =>
  completions.map((completion): RewardSample => {
    return { record: { prompt: 'p' }, prompt: 'p', completion, completionIds: Int32Array.of(1), stopReason: 'stop' };
  });

it.each<[Partial<PooledRewardOptions>, number[]]>([
  [{ export: 'score' }, [1, 2, 3]],
  [{ export: 'score', samplesPerCall: 2 }, [1, 2, 3]],
  [{ export: 'asObject' }, [2, 4, 6]],
  [{ export: 'factory', args: [5] }, [5, 10, 15]],
])('%j scores in workers', async (options, expected) => {
  const { reward } = pool({ timeoutMs: 20_000, ...options });
  expect(await reward.score(samples('a', 'ab', 'abc'))).toEqual(expected);
});

it.each(['hang', 'exit', 'throw', 'memory'])(
  'a sample that makes it %s cannot be scored; the others are',
  async (what) => {
    const { reward, problems } = pool({ maxMemoryMb: 60, timeoutMs: what === 'hang' ? 500 : 20_000 });
    const rewards = asRewards([reward]);
    const { totals, failures } = await scoreBatch(rewards, samples('a', what, 'b', 'skip', 'c'));
    expect([...totals]).toEqual([1, Number.NaN, 1, Number.NaN, 1]);
    expect(failures).toEqual([]);
    expect(problems).toEqual([{ hang: 'timeout', exit: 'crashed', throw: 'threw', memory: 'crashed' }[what]]);
    // The pool goes on.
    expect(await reward.score(samples('a', 'skip', 'b'))).toEqual([1, null, 1]);
  },
);

it('a worker that dies between two calls is replaced', async () => {
  const { reward, problems } = pool({ size: 1, timeoutMs: 20_000 });
  expect(await reward.score(samples('later'))).toEqual([1]);
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect(await reward.score(samples('a', 'b'))).toEqual([1, 1]);
  expect(problems).toEqual([]);
});

it('the event loop goes on while all workers hang', async () => {
  const { reward, problems } = pool({ size: 2 });
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const { failures, totals } = await scoreBatch(asRewards([reward]), samples('hang', 'hang', 'hang'));
  clearInterval(timer);
  expect([...totals]).toEqual([Number.NaN, Number.NaN, Number.NaN]);
  expect(failures).toMatchObject([
    { reward: 'troubled', reason: 'threw', message: expect.stringMatching(/no scores after 500 ms/) },
  ]);
  expect(problems).toEqual(['timeout', 'timeout', 'timeout']);
  expect(ticks).toBeGreaterThan(20);
});

it.each<[Partial<PooledRewardOptions>, RegExp]>([
  [{ export: 'absent' }, /no export absent, only .*score/],
  [{ export: 'notAReward' }, /neither a function nor a reward/],
  [{ module: '/absent.mjs' }, /absent\.mjs/],
  [{ export: 'fewer' }, /0 scores for 1 completions/],
])('%j fails with its reason', async (options, message) => {
  const { reward } = pool({ timeoutMs: 20_000, ...options });
  await expect(reward.score(samples('a'))).rejects.toThrow(message);
});

it.each([{ export: '' }, { size: 0 }, { timeoutMs: 0 }, { samplesPerCall: 0 }])('refuses %j', (options) => {
  expect(() => pool(options)).toThrow(/Expected/);
});

it('workers do not keep a process alive', async () => {
  const { code, stdout } = await runProgram('pooled-reward');
  expect(stdout).toBe('1,NaN\n');
  expect(code).toBe(0);
});

it('built-in rewards run in workers where a configuration says so, and one that takes for ever is stopped', async () => {
  const { code, stdout, stderr } = await runProgram('pooled-built-in');
  expect(stderr).toBe('');
  expect(stdout).toBe('maths undefined,regex 2\n[1,0]\n[1,null,0]\n');
  expect(code).toBe(0);
});
