import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const script = fileURLToPath(new URL('../../scripts/soak.mjs', import.meta.url));

it('kills at random points lose no finished step and damage no checkpoint', async () => {
  const args = [script, '--kills', '5', '--steps', '8', '--seed', '3'];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 150_000 });
  expect(stdout).toMatch(/5 kills \(.*\), \d+ resumed from a checkpoint, \d+ runs of 8 steps to their end/);
  expect(stdout).toMatch(/No finished step was lost, no checkpoint was damaged/);
}, 160_000);
