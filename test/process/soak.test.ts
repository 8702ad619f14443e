import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

const script = (name: string) => fileURLToPath(new URL(`../../scripts/${name}`, import.meta.url));

it('kills at random points lose no finished step and damage no checkpoint', async () => {
  const args = [script('soak.mjs'), '--kills', '5', '--steps', '8', '--seed', '3'];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 150_000 });
  expect(stdout).toMatch(/5 kills \(.*\), \d+ resumed from a checkpoint, \d+ runs of 8 steps to their end/);
  expect(stdout).toMatch(/No finished step was lost, no checkpoint was damaged/);
}, 160_000);

it('a longer run leaves no tensors and no device memory behind', async () => {
  const args = [script('long-run.mjs'), '--steps', '150'];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 60_000 });
  expect(stdout).toMatch(/live tensors 0, device memory 0 bytes live, 0 reserved/);
}, 70_000);
