import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type RankOptions, runRanks } from './ranks.js';

// No GPU here: a library that plays NCCL and the CUDA driver, and one that plays a CUDA device (test/fixtures).
const folder = mkdtempSync(join(tmpdir(), 'grpo-nccl-'));
const libraries = join(folder, 'libraries');
const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));

function compile(source: string, target: string): void {
  const header = fileURLToPath(new URL('../../kernels/include', import.meta.url));
  const { status, stderr } = spawnSync('cc', ['-shared', '-fPIC', `-I${header}`, '-o', target, fixture(source)]);
  expect(status, String(stderr)).toBe(0);
}

beforeAll(() => {
  mkdirSync(libraries);
  compile('fake_backend.c', join(folder, 'backend.so'));
  // One file under both names is loaded once, so that the two share their state.
  compile('fake_nccl.c', join(libraries, 'libnccl.so.2'));
  symlinkSync('libnccl.so.2', join(libraries, 'libcuda.so.1'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function run(scenario: string, ranks: number, argument: object, options: RankOptions & { path?: string } = {}) {
  const env = {
    GRPO_CUDA_LIBRARY: join(folder, 'backend.so'),
    GRPO_NCCL_LIBRARY: undefined,
    LD_LIBRARY_PATH: options.path ?? libraries,
    ...options.env,
  };
  return runRanks(scenario, ranks, { ...options, env, argument: { device: 'cuda', ...argument } });
}

const failure = { name: 'CollectiveError', code: 'GRPO_COLLECTIVE' };

describe.skipIf(process.platform !== 'linux')('NCCL', () => {
  test('runs every collective between two ranks', async () => {
    const cases = [
      { dtype: 'f32', counts: [1, 5, 1000] },
      { dtype: 'i32', counts: [1, 1000] },
    ];
    const ended = await run('everyCollective', 2, { cases });
    for (const rank of ended) {
      expect(rank).toMatchObject({ code: 0, stderr: '' });
      expect(rank.reports).toEqual([{ checked: 45, liveTensors: 0, collectives: 46, sent: true }]);
    }
  });

  test('brings the weights of a trainer to a server', async () => {
    for (const rank of await run('weights', 2, { count: 100_000 })) {
      expect(rank).toMatchObject({ code: 0, stderr: '', reports: [{ liveTensors: 0 }] });
    }
  });

  test('gathers values of any length', async () => {
    const ended = await run('gatherValues', 2, {});
    for (const rank of ended)
      expect(rank.reports).toEqual([
        {
          gathered: [
            [0, ''],
            [1, 'é'.repeat(99)],
          ],
        },
      ]);
  });

  test('gives up on a rank that does not come, after the limit', async () => {
    const [ended] = await run('lateRank', 2, { timeoutSeconds: 1 });
    expect(ended!.reports[0]).toMatchObject({ ...failure, reason: 'timeout', collective: 'allReduce', sequence: 1 });
  });

  test('ends a collective that is aborted', async () => {
    const [ended] = await run('lateRank', 2, { timeoutSeconds: 50, abortAfter: 200 });
    expect(ended!.reports[0]).toMatchObject({ ...failure, reason: 'aborted', collective: 'allReduce' });
    expect(ended!.milliseconds).toBeLessThan(20_000);
  });

  test('reports what NCCL reports', async () => {
    const [ended] = await run('lateRank', 2, { timeoutSeconds: 50 }, { env: { FAKE_NCCL_FAILS: '1' } });
    const error = ended!.reports[0] as { message: string };
    expect(error).toMatchObject({ ...failure, reason: 'peer' });
    expect(error.message).toContain('NCCL: remote process exited');
  });

  test('that is missing is an error that says what to install', async () => {
    const driver = join(folder, 'driver only');
    mkdirSync(driver);
    copyFileSync(join(libraries, 'libnccl.so.2'), join(driver, 'libcuda.so.1'));
    const [ended] = await run('opening', 1, {}, { path: driver });
    const error = ended!.reports[0] as { message: string };
    expect(error).toMatchObject({ name: 'BackendUnavailableError', code: 'GRPO_BACKEND_UNAVAILABLE' });
    expect(error.message).toMatch(/libnccl\.so\.2 \(load\)[\s\S]*Install NCCL 2\.14 or later/);
  });

  test('needs the CUDA driver', async () => {
    const [ended] = await run('opening', 1, {}, { path: folder });
    expect((ended!.reports[0] as { message: string }).message).toContain('libcuda.so.1 (load)');
  });
});
