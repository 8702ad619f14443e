// The tests of a CUDA device as they run without this repository (npm run test:cuda), on the processor.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { cudaOnCpu } from '../devices.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'grpo-cuda-tests-'));
const onCpu = { GRPO_CUDA_LIBRARY: cudaOnCpu.library, GRPO_CUBLAS_LIBRARY: cudaOnCpu.cublas };

function run(args: string[], env: Record<string, string>) {
  return spawnSync(process.execPath, ['suite.mjs', ...args], {
    cwd: folder,
    encoding: 'utf8',
    env: { PATH: process.env.PATH, ...env },
  });
}

describe.skipIf(!existsSync(cudaOnCpu.library))('the bundled tests of CUDA', () => {
  beforeAll(() => {
    const { status, stderr } = spawnSync(process.execPath, ['scripts/bundle-cuda-tests.mjs'], {
      cwd: root,
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    cpSync(join(root, 'build-cuda/tests'), folder, { recursive: true });
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([
    ['grpo-advantages', 16],
    ['decoder-optimizer', 8],
  ])('run %s with Node alone', (file, atLeast) => {
    const { status, stdout } = run(['--only', file], onCpu);
    expect(stdout).toMatch(
      new RegExp(`^passed ${file}: \\d+ tests\n\\d+ passed, 0 failed, \\d+ skipped in \\d+(\\.\\d)? s\n$`),
    );
    expect(Number(/(\d+) passed, 0/.exec(stdout)![1])).toBeGreaterThanOrEqual(atLeast);
    expect(status).toBe(0);
  });

  test('say which fail, and fail', () => {
    const { status, stdout } = run(['--only', 'decoder-matmul'], { ...onCpu, GRPO_CUBLAS_LIBRARY: '/nowhere' });
    expect(stdout).toMatch(/^FAILED decoder-matmul/);
    expect(stdout).toMatch(/\[1 x 33\] over k = 7[^\n]*\n {4}matmul: none: cuBLAS was not found \(tried \/nowhere\)/);
    expect(Number(/, (\d+) failed/.exec(stdout)![1])).toBeGreaterThan(10);
    expect(status).toBe(1);
  });

  test('say in a line that there is no device, or no such file', () => {
    const none = run([], { GRPO_CUDA_LIBRARY: '/nowhere/libgrpo_cuda.so' });
    expect(none.stderr).toMatch(/^test:cuda: needs a CUDA device: \/nowhere\/libgrpo_cuda\.so: .*No such file.*\n$/);
    const unknown = run(['--only', 'logprobs'], onCpu);
    expect(unknown.stderr).toMatch(/^test:cuda: --only: expected a part of one of activations, decoder-/);
    expect([none.status, unknown.status]).toEqual([1, 1]);
  });
});
