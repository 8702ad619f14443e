import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { readCheckpoint } from '../../src/trainer/checkpoint.js';
import { runTraining, writeRun } from './training-ranks.js';

vi.setConfig({ testTimeout: 120_000 });
const folder = mkdtempSync(join(tmpdir(), 'distributed-cli-'));
afterAll(() => rmSync(folder, { recursive: true }));

const weights = (run: string) => readFileSync(join(folder, run, 'model', 'model.safetensors'));
const steps = (run: string) =>
  readFileSync(join(folder, run, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line).step as number);

beforeAll(async () => {
  await writeRun(folder);
});

describe('grpo train on two ranks', () => {
  it('writes one folder and one progress, and rank 1 is silent', async () => {
    const [first, second] = await runTraining(2, ['train', 'run.yaml', '--output-dir', 'whole'], { folder });
    expect(first!.stderr).toMatch(/2 ranks, by the settings of torchrun/);
    expect([first!.code, second!.code]).toEqual([0, 0]);
    expect(second!.stderr + second!.stdout).toBe('');
    expect(steps('whole')).toEqual([1, 2, 3, 4, 5, 6]);
    const state = await readCheckpoint(join(folder, 'whole', 'checkpoint-6'));
    expect(state).toMatchObject({ step: 6, worldSize: 2 });
    expect(Object.keys(state.files)).toEqual(
      expect.arrayContaining(['optimizer-00001-of-00002.safetensors', 'optimizer-00002-of-00002.safetensors']),
    );
  });

  it('ends after the step when one rank is told to, with one checkpoint, and goes on to the same bits', async () => {
    let told = false;
    const stopped = await runTraining(2, ['train', 'run.yaml', '--output-dir', 'stopped'], {
      folder,
      onError: (rank, text, children) => {
        if (rank === 0 && !told && text.includes('step 1/')) {
          told = true;
          children[1]!.kill('SIGINT');
        }
      },
    });
    expect(stopped.map((rank) => rank.code)).toEqual([130, 130]);
    expect(stopped[0]!.stderr).toMatch(/Stopped after step [1-5] of 6/);
    const resumed = await runTraining(2, ['train', 'run.yaml', '--output-dir', 'stopped', '--resume'], { folder });
    expect(resumed.map((rank) => rank.code)).toEqual([0, 0]);
    expect(steps('stopped')).toEqual([1, 2, 3, 4, 5, 6]);
    expect(weights('stopped').equals(weights('whole'))).toBe(true);
  });

  it('started again, passes over a checkpoint that was cut, and says why', async () => {
    cpSync(join(folder, 'whole'), join(folder, 'cut'), { recursive: true });
    truncateSync(join(folder, 'cut', 'checkpoint-6', 'model.safetensors'), 100);
    rmSync(join(folder, 'cut', 'checkpoint-5', 'optimizer-00002-of-00002.safetensors'));
    const args = ['train', 'run.yaml', '--output-dir', 'cut'];
    const again = await runTraining(2, args, { folder, generation: 1 });
    expect(again[0]!.stderr).toMatch(/Passing over .*checkpoint-6, which cannot be used: .*has 100 bytes/);
    expect(again[0]!.stderr).toMatch(/Passing over .*checkpoint-5, which cannot be used: .*00002.*is missing/);
    expect(again[0]!.stderr).toMatch(/Resumed from .*checkpoint-4/);
    expect(again.map((rank) => rank.code)).toEqual([0, 0]);
    expect(weights('cut').equals(weights('whole'))).toBe(true);
  });

  it('started again before the first checkpoint, begins anew', async () => {
    const args = ['train', 'run.yaml', '--output-dir', 'anew', '--max-steps', '1'];
    const ranks = await runTraining(2, args, { folder, generation: 1 });
    expect(ranks.map((rank) => rank.code)).toEqual([0, 0]);
    expect(steps('anew')).toEqual([1]);
  });

  it('goes on alone from what two ranks wrote', async () => {
    cpSync(join(folder, 'whole'), join(folder, 'alone'), { recursive: true });
    for (const name of readdirSync(join(folder, 'alone'))) {
      if (/^checkpoint-[3-6]$/.test(name)) rmSync(join(folder, 'alone', name), { recursive: true });
    }
    const args = ['train', 'run.yaml', '--output-dir', 'alone', '--resume', '--per-device-train-batch-size', '8'];
    const [alone] = await runTraining(1, args, { folder });
    expect(alone!.code).toBe(0);
    expect(steps('alone')).toEqual([1, 2, 3, 4, 5, 6]);
    expect(existsSync(join(folder, 'alone', 'checkpoint-6', 'optimizer.safetensors'))).toBe(true);
  });
});

it('grpo sft runs on two ranks', async () => {
  const sft = ['sft', '--model', 'model', '--dataset', 'data.jsonl', '--output-dir', 'sft', '--device', 'cpu'];
  const args = [...sft, '--network-interface', '127.0.0.1', '--max-steps', '2', '--zero-stage', '1'];
  const ranks = await runTraining(2, args, { folder });
  expect(ranks[0]!.stderr).toMatch(/Model:/);
  expect(ranks.map((rank) => rank.code)).toEqual([0, 0]);
});
