import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { latestCheckpoint } from '../../src/trainer/checkpoint-folders.js';
import { type RankResult, runTraining, writeRun } from './training-ranks.js';

vi.setConfig({ testTimeout: 120_000 });
const file = fileURLToPath(new URL('programs/train-fault.mjs', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'distributed-faults-'));
afterAll(() => rmSync(folder, { recursive: true }));

const weights = (run: string) => readFileSync(join(folder, run, 'model', 'model.safetensors'));
const exitCodes = (ranks: RankResult[]) => ranks.map((rank) => rank.code);

interface Fault {
  at: 'rollout' | 'backward' | 'collective' | 'checkpoint';
  signal?: 'SIGKILL' | 'SIGSTOP';
  /** Milliseconds. */
  delay?: number;
}

/** A run of four updates; one rank has a fault. */
function run(name: string, { rank: faulty, ...fault }: Fault & { rank: number }, more: string[] = []) {
  const args = ['train', 'run.yaml', '--output-dir', name, '--max-steps', '4', ...more];
  const envOf = (rank: number) => (rank === faulty ? { FAULT: JSON.stringify(fault) } : {});
  const patience = fault.signal === 'SIGSTOP' ? 500 : undefined;
  return runTraining(2, args, { folder, file, envOf, patience });
}

const again = (name: string, more: string[] = []) =>
  runTraining(2, ['train', 'run.yaml', '--output-dir', name, '--max-steps', '4', ...more], { folder, generation: 1 });

beforeAll(async () => {
  await writeRun(folder);
  const ranks = await runTraining(2, ['train', 'run.yaml', '--output-dir', 'whole', '--max-steps', '4'], { folder });
  expect(exitCodes(ranks)).toEqual([0, 0]);
});

describe('a rank that is killed', () => {
  const cases: [Fault['at'], number][] = [
    ['rollout', 1],
    ['backward', 0],
    ['collective', 1],
    ['checkpoint', 0],
    ['checkpoint', 1],
  ];
  it.each(cases)(
    'at %s (rank %i) ends the other within seconds, and the run goes on to the same bits',
    async (at, rank) => {
      const name = `killed-${at}-${rank}`;
      const ended = await run(name, { at, rank, signal: 'SIGKILL' });
      const other = ended[1 - rank]!;
      expect(ended[rank]!.signal).toBe('SIGKILL');
      expect(other.code).toBe(75);
      expect(other.stderr).toMatch(new RegExp(`Rank ${rank}\\b.*(died|failed|closed|gone)`, 's'));
      expect(other.milliseconds - ended[rank]!.milliseconds).toBeLessThan(10_000);
      // The first update is always finished by then, and what was written of it can be used.
      const saved = await latestCheckpoint(join(folder, name), {
        onUnusable: ({ error }) => expect.unreachable(error.message),
      });
      expect(saved).toMatch(/checkpoint-[1-3]$/);
      expect(exitCodes(await again(name))).toEqual([0, 0]);
      expect(weights(name).equals(weights('whole'))).toBe(true);
    },
  );
});

// These mostly wait, so they may wait together.
describe.concurrent('a rank that hangs', () => {
  it.each(['rollout', 'backward', 'collective', 'checkpoint'] as const)(
    'at %s is noticed after hungAfter',
    async (at) => {
      const name = `stopped-${at}`;
      const limit = ['--hung-after', '4'];
      const ended = await run(name, { at, rank: 1, signal: 'SIGSTOP' }, limit);
      expect(ended[0]!.code).toBe(75);
      expect(ended[0]!.stderr).toMatch(/Rank 1\b.*no sign of life/);
      expect(exitCodes(await again(name))).toEqual([0, 0]);
      expect(weights(name).equals(weights('whole'))).toBe(true);
    },
  );
});

describe.concurrent('a rank that is slow', () => {
  it('is waited for, longer than hungAfter too', async () => {
    const ended = await run('slow', { at: 'rollout', rank: 1, delay: 6000 }, ['--hung-after', '4']);
    expect(exitCodes(ended)).toEqual([0, 0]);
    expect(weights('slow').equals(weights('whole'))).toBe(true);
  });

  it('for longer than rankTimeout ends the run with an error that says so', async () => {
    const ended = await run('late', { at: 'rollout', rank: 1, delay: 20_000 }, ['--rank-timeout', '3']);
    expect(ended.map((rank) => rank.code)).toEqual([75, 75]);
    for (const { stderr } of ended) expect(stderr).toMatch(/allGather|exchange|did not|timed? ?out|within/i);
    expect(exitCodes(await again('late'))).toEqual([0, 0]);
    expect(weights('late').equals(weights('whole'))).toBe(true);
  });
});
