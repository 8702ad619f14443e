// The tests of a CUDA device as they run without this repository (npm run test:cuda), on the processor.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
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

  test('name a suite that is given up, and add later ones to what is known', () => {
    const results = mkdtempSync(join(folder, 'results-'));
    const read = () => JSON.parse(readFileSync(join(results, 'cuda-tests-cuda-on-the-cpu.json'), 'utf8')).results;
    const late = run(['--steps', 'suites', '--suites', 'recording', '--seconds', '0.3', '--results', results], onCpu);
    expect(late.stdout).toMatch(/^FAILED recording: did not end within 0\.3 s$/m);
    expect(late.status).toBe(1);
    expect(read()).toMatchObject([{ what: 'recording', failed: 1, output: expect.stringMatching(/within 0\.3 s$/) }]);
    const more = run(['--steps', 'suites', '--suites', 'grpo-advantages', '--results', results], onCpu);
    expect(more.stdout).toMatch(/^passed grpo-advantages: \d+ tests$/m);
    expect(more.stdout).not.toMatch(/^\.\.\. /m);
    expect(read()).toMatchObject([
      { what: 'recording', failed: 1 },
      { what: 'grpo-advantages', failed: 0 },
    ]);
    expect(readFileSync(join(results, 'cuda-tests-cuda-on-the-cpu.md'), 'utf8')).toMatch(
      /\| grpo-advantages \| \d\d \| 0 \|/,
    );
    expect(more.status).toBe(1);
  });

  test('run in order by run.sh, each part under its limit, with what was said in log.txt', () => {
    const env = { PATH: process.env.PATH, ...onCpu, GRPO_ON_CPU: '1', GRPO_PYTHON: 'false' };
    const parts = { PARTS: 'example kernels', SECONDS_IN_ALL: '60' };
    const ended = spawnSync('sh', [join(folder, 'run.sh'), join(folder, 'of-run')], { env: { ...env, ...parts } });
    expect(ended.status).toBe(0);
    const log = readFileSync(join(folder, 'of-run/log.txt'), 'utf8');
    expect(log).toMatch(
      /^== example, at most \d\d s\n== example: exit code 1 after \d+ s\n== kernels, at most \d\d s\n/m,
    );
    expect(log).toMatch(/^Node v\d+/m);
    expect(log).not.toMatch(/== suite|== build/);
    const short = { PARTS: 'example', SECONDS_IN_ALL: '5' };
    spawnSync('sh', [join(folder, 'run.sh'), join(folder, 'of-run')], { env: { ...env, ...short } });
    expect(readFileSync(join(folder, 'of-run/log.txt'), 'utf8')).toMatch(/^== example: no time is left$/m);
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
