import { appendFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { combineTrackers } from '../../../src/tracking/combine.js';
import { JsonlTracker } from '../../../src/tracking/jsonl.js';
import { readJsonLines, truncateJsonLines } from '../../../src/tracking/line-file.js';

const folder = await mkdtemp(join(tmpdir(), 'grpo-jsonl-'));
afterAll(() => rm(folder, { recursive: true }));

async function collect(path: string): Promise<Record<string, unknown>[]> {
  const rows = [];
  for await (const row of readJsonLines(path)) rows.push(row);
  return rows;
}

describe('JsonlTracker', () => {
  it('appends one line a step and one a completion', async () => {
    const fail = (error: unknown) => {
      throw error;
    };
    const tracker = new JsonlTracker(folder, fail);
    for (let step = 1; step <= 50; step++) tracker.metrics(step, { loss: 1 / step, kl: Number.NaN });
    const completion = {
      step: 1,
      split: 'train',
      prompt: 'a\nb',
      completion: '</script>\u2028',
      reward: 1,
      rewards: { format: null },
      advantage: null,
      stopReason: 'stop',
    };
    tracker.completions([completion, completion]);
    await tracker.finish();
    const rows = await collect(join(folder, 'metrics.jsonl'));
    expect(rows.map((row) => row.step)).toEqual(Array.from({ length: 50 }, (_, i) => i + 1));
    expect(rows[1]).toMatchObject({ step: 2, loss: 0.5, kl: null });
    expect(await collect(join(folder, 'completions.jsonl'))).toEqual([completion, completion]);
  });

  it('passes over a half-written last line, and truncates to the step a run resumes from', async () => {
    const path = join(folder, 'killed.jsonl');
    await writeFile(path, '{"step":1}\n{"step":2}\n{"step":3}\n');
    await appendFile(path, '{"step":4,"lo');
    expect((await collect(path)).map((row) => row.step)).toEqual([1, 2, 3]);
    await truncateJsonLines(path, 2);
    expect(await readFile(path, 'utf8')).toBe('{"step":1}\n{"step":2}\n');
  });

  it('has nothing to truncate where there is no file', async () => {
    await expect(truncateJsonLines(join(folder, 'absent.jsonl'), 1)).resolves.toBeUndefined();
  });
});

describe('combineTrackers', () => {
  it('reports what a tracker throws once, and calls the others', async () => {
    const errors: unknown[] = [];
    const seen: number[] = [];
    const broken = {
      metrics: () => {
        throw new Error('disk full');
      },
      finish: () => Promise.reject(new Error('again')),
    };
    const working = { metrics: (step: number) => void seen.push(step) };
    const both = combineTrackers([broken, working], (error) => errors.push(error));
    both.metrics(1, {});
    both.metrics(2, {});
    await both.finish?.();
    expect(seen).toEqual([1, 2]);
    expect(errors.map(String)).toEqual(['Error: disk full']);
  });
});
