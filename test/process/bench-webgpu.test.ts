import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { difference, tolerance } from '../../bench/webgpu/compare.js';
import { loadDawn } from '../../src/backend/dawn.js';

const root = new URL('../../', import.meta.url).pathname;
const adapter = await (await loadDawn()).requestAdapter().catch(() => null);

interface Row {
  task: string;
  seconds: Record<string, number | string>;
  differences: Record<string, number>;
  copyRates: Record<string, number>;
}

describe('the comparison of results', () => {
  it('finds one gradient in a thousand that is off by a fifth, and a result that is not there', () => {
    const expected = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));
    const close = expected.map((x) => x * (1 + 1e-6));
    const wrong = expected.with(500, 1.2 * expected[500]!);
    expect(difference(close, expected)).toBeLessThan(tolerance);
    expect(difference(wrong, expected)).toBeGreaterThan(tolerance);
    expect(
      difference(
        expected.map(() => Number.NaN),
        expected,
      ) <= tolerance,
    ).toBe(false);
    expect(difference(expected.subarray(1), expected)).toBe(Number.POSITIVE_INFINITY);
  });
});

describe.skipIf(!adapter)('npm run bench:webgpu', () => {
  it('times every operation on all sides, and finds the results of the peers equal to ours', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'grpo-bench-'));
    try {
      const sizes = '--rows 16 --vocab 72 --dtypes f32 --tokens 128 --groups 4 --rounds 1'.split(' ');
      const args = ['bench/run.mjs', 'webgpu', ...sizes, '--beside', 'cpu', '--out', join(folder, 'result')];
      await promisify(execFile)(process.execPath, args, { cwd: root });
      const { rows } = JSON.parse(await readFile(join(folder, 'result.json'), 'utf8')) as { rows: Row[] };
      expect(rows).toHaveLength(5);
      const sides = ['ours', 'TensorFlow.js', 'onnxruntime-web', 'cpu'];
      for (const { task, seconds, differences, copyRates } of rows) {
        expect(Object.keys(seconds).map((name) => name.split(' ')[0])).toEqual(sides);
        for (const value of Object.values(seconds)) expect(value, task).toBeGreaterThan(0);
        expect(Object.keys(differences)).toHaveLength(sides.length - 1);
        for (const value of Object.values(differences)) expect(value, task).toBeLessThanOrEqual(tolerance);
        for (const rate of Object.values(copyRates)) expect(rate, task).toBeGreaterThan(0);
      }
      expect(await readFile(join(folder, 'result.md'), 'utf8')).toContain('| share of the copy rate |');
    } finally {
      await rm(folder, { recursive: true });
    }
  }, 600_000);
});
