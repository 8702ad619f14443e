import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { cudaOnCpu } from '../devices.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const python = process.env.GRPO_PYTHON || 'python3';

test('the PyTorch example equals PyTorch, forward and backward', { timeout: 120_000 }, ({ skip }) => {
  if (!existsSync(cudaOnCpu.library)) skip('there is no stand-in for CUDA');
  if (spawnSync(python, ['-c', 'import torch']).status !== 0) skip(`${python} has no torch`);
  const { status, stdout, stderr } = spawnSync(python, ['examples/pytorch/check.py', cudaOnCpu.library], {
    cwd: root,
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout.match(/relative error/g)).toHaveLength(8);
});
