import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { compileLibrary } from '../c-library.js';
import { cudaOnCpu } from '../devices.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const python = process.env.GRPO_PYTHON || 'python3';
const program = 'bench/cuda/measure_kernels.py';
const run = (...args: string[]) => spawnSync(python, [program, ...args], { cwd: root, encoding: 'utf8' });
const hasPython = spawnSync(python, ['--version']).status === 0;
const hasTorch = spawnSync(python, ['-c', 'import torch']).status === 0;
const hasTransformers = hasTorch && spawnSync(python, ['-c', 'import transformers']).status === 0;

test('every row of the CUDA benchmark equals its peers, on the processor', { timeout: 240_000 }, ({ skip }) => {
  if (!existsSync(cudaOnCpu.library)) skip('there is no stand-in for CUDA');
  if (!hasTorch) skip(`${python} has no torch`);
  // With packages that have the calls of QuACK, Liger and Cut Cross-Entropy.
  const { status, stdout, stderr } = spawnSync(python, [program, '--device', 'cuda-on-cpu'], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, PYTHONPATH: 'test/fixtures/peer_packages' },
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const rows = stdout.trim().split('\n');
  const tasks = [
    'log-prob',
    'log-prob',
    'policy loss',
    'fused head',
    'policy loss',
    'group adv',
    'AdamW',
    'attention',
    'attention',
    'decoding',
  ];
  expect(rows).toHaveLength(tasks.length);
  rows.forEach((row, i) => {
    expect(row.slice(0, tasks[i]!.length)).toBe(tasks[i]);
    expect(row).toMatch(/: equal to (eager|sdpa) \de-\d\d.*; a wrong result is \de-\d\d apart/);
  });
  const packages = ['quack', 'quack', 'liger', 'cce'];
  packages.forEach((name, i) => {
    expect(rows[i]).toMatch(new RegExp(`, ${name} without entropy \\de-\\d\\d`));
  });
  // Nothing is timed here.
  expect(stdout).not.toMatch(/GB\/s|seconds| ms/);
});

test('a row that ends its process or never ends is named, and the others go on', { timeout: 240_000 }, ({ skip }) => {
  if (!existsSync(cudaOnCpu.library)) skip('there is no stand-in for CUDA');
  if (!hasTorch) skip(`${python} has no torch`);
  const folder = mkdtempSync(join(tmpdir(), 'grpo-bench-cuda-'));
  // Ends the process of the first row, keeps the second waiting, and is the stand-in from the third on.
  const library = compileLibrary(
    folder,
    'faulty.so',
    `#include <dlfcn.h>
     #include <stdio.h>
     #include <stdlib.h>
     #include <unistd.h>
     const void* grpo_cuda_backend(void) {
       FILE* file = fopen("${folder}/calls", "a");
       fputc('x', file);
       const long calls = ftell(file);
       fclose(file);
       if (calls == 1) abort();
       if (calls == 2) sleep(1000);
       void* real = dlopen("${cudaOnCpu.library}", RTLD_NOW);
       return ((const void* (*)(void))dlsym(real, "grpo_cuda_backend"))();
     }`,
  );
  try {
    const args = ['--device', 'cuda-on-cpu', '--library', library, '--row-seconds', '20'];
    const { status, stdout, stderr } = run(...args, '--only', 'advantages');
    expect(stdout.split('\n').map((line) => line.slice(0, 60))).toEqual([
      expect.stringMatching(/^row 1: equal to nobody/),
      expect.stringMatching(/^row 2: equal to nobody/),
      expect.stringMatching(/^group advantages, 8 groups of 8: equal to eager/),
      '',
    ]);
    expect(stdout).toMatch(/^row 1: .*ours: the process ended with SIGABRT$/m);
    expect(stderr).toMatch(/^bench:cuda: ours of row 1: .*SIGABRT; ours of row 2: it did not end within 20 s$/m);
    expect(status).toBe(1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('updates and samples of a tiny model equal those of transformers', { timeout: 240_000 }, ({ skip }) => {
  if (!existsSync(cudaOnCpu.library)) skip('there is no stand-in for CUDA');
  if (!hasTransformers) skip(`${python} has no transformers`);
  const env = { ...process.env, GRPO_CUDA_LIBRARY: cudaOnCpu.library, GRPO_CUBLAS_LIBRARY: cudaOnCpu.cublas };
  const args = ['bench/run.mjs', 'cuda', '--only', 'training', '--python', python];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, env, encoding: 'utf8' });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  const line = (shape: string) =>
    new RegExp(`^${shape}: log-probs .* and norm of the gradients .* apart from PyTorch's$`, 'm');
  expect(stdout).toMatch(line('tiny-f32'));
  expect(stdout).toMatch(line('tiny-bf16'));
  expect(stdout).not.toMatch(/tokens\/s/);
});

test('the CUDA benchmark says in a line that there is no device', { timeout: 60_000 }, () => {
  const env = { ...process.env, GRPO_CUDA_LIBRARY: '/nowhere/libgrpo_cuda.so' };
  const { status, stderr } = spawnSync(process.execPath, ['bench/run.mjs', 'cuda'], {
    cwd: root,
    env,
    encoding: 'utf8',
  });
  expect(status).toBe(1);
  expect(stderr).toMatch(/^bench:cuda: needs the device cuda: \/nowhere\/libgrpo_cuda\.so: .*No such file.*\n$/);
});

test.skipIf(!hasPython).each([
  [
    ['--library', '/nowhere/libgrpo_cuda.so'],
    /^bench:cuda: there is no libgrpo_cuda\.so in nowhere\/: npm run build:cuda$/,
  ],
  [['--rounds', '0'], /expected numbers above 0$/],
])('the CUDA benchmark with %o says in a line what is wrong', (args, message) => {
  const { status, stderr } = run(...args);
  expect(status).not.toBe(0);
  expect(stderr.trim().split('\n').at(-1)).toMatch(message);
});
