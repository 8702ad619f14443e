import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createTask, rowsOf } from '../../../examples/raif/task.js';
import { fullSettings, variants, workedExample } from '../../../examples/raif/worked-example.js';
import { openDevice } from '../../../src/backend/open-device.js';
import '../../../src/platform/node.js';
import { raifRewards } from '../../../src/recipes/raif/rewards.js';
import { scoreBatch } from '../../../src/rewards/score.js';
import type { Device } from '../../../src/tensor.js';

let device: Device;
let folder: string;
beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'raif-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

it('trains the four runs from one start, with their curves in one report', async () => {
  const settings = { ...fullSettings, startSteps: 8, steps: 4, evalSteps: 2, heldOut: 8, batch: 16 };
  const curves = await workedExample(device, folder, settings);
  expect(curves.map(({ run }) => run)).toEqual(Object.keys(variants));
  for (const { points } of curves) expect(points.map(({ step }) => step)).toEqual([0, 2, 4]);
  expect(new Set(curves.map(({ points }) => points[0]!.accuracy)).size).toBe(1);
  const report = readFileSync(join(folder, 'report.html'), 'utf8');
  for (const run of Object.keys(variants)) {
    expect(report).toContain(`"runs/${run}/accuracy"`);
    expect(existsSync(join(folder, run, 'report.html'))).toBe(true);
  }
  const lines = readFileSync(join(folder, 'both', 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  const logged = new Set(lines.flatMap((line) => Object.keys(JSON.parse(line))));
  expect([...logged]).toEqual(
    expect.arrayContaining(['sft_loss', 'contrast/kept', 'rewards/answer/mean', 'rewards/format/mean']),
  );
}, 120_000);

it('has experts without a flaw, and a teacher with many', async () => {
  const task = createTask(1, { train: 64, heldOut: 4, start: 64, experts: 64 });
  const records = rowsOf(task.train);
  const accuracy = async (demonstrations: typeof task.start) => {
    const samples = demonstrations.map(({ prompt, completion }, i) => ({
      record: records[i]!,
      prompt: prompt!,
      completion,
      completionIds: Int32Array.of(0),
      stopReason: 'stop' as const,
    }));
    const scores = (await scoreBatch(raifRewards(), samples)).scores.accuracy!;
    return scores.reduce<number>((sum, score) => sum + score!, 0) / scores.length;
  };
  expect(await accuracy(task.experts)).toBe(1);
  expect(await accuracy(task.start)).toBeGreaterThan(0.5);
  expect(await accuracy(task.start)).toBeLessThan(0.9);
});
