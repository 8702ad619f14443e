import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { compileFixture, compileLibrary } from '../c-library.js';
import { runProgram } from './program.js';

describe('a process', () => {
  test('ends by itself with live tensors and queued work', async () => {
    const ended = await runProgram('live-tensors');
    expect(ended).toMatchObject({ code: 0, stdout: 'end of program\n', stderr: '' });
    // The queued copies take seconds; only the one in progress is waited for.
    expect(ended.milliseconds).toBeLessThan(3000);
  });

  test('ends by itself with live recordings, on a closed device and on an open one', async () => {
    const ended = await runProgram('live-recordings');
    expect(ended).toMatchObject({ code: 0, stdout: 'end of program\n', stderr: '' });
    expect(ended.milliseconds).toBeLessThan(3000);
  });

  test('stays alive for a read in progress', async () => {
    expect(await runProgram('pending-read')).toMatchObject({ code: 0, stdout: 'read 5\n', stderr: '' });
  });

  test('can call process.exit() mid-job', async () => {
    expect(await runProgram('exit-mid-job')).toMatchObject({ code: 3, stdout: '', stderr: '' });
  });

  test('lets devices end before their library when process.exit() is called', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'grpo-exit-'));
    const code = readFileSync(new URL('../fixtures/fake_backend.c', import.meta.url), 'utf8').replace(
      'static void destroy(grpo_context* context) { (void)context; }',
      `#include <unistd.h>
       static void destroy(grpo_context* context) { (void)context, usleep(200000), puts("device"), fflush(stdout); }
       __attribute__((destructor)) static void unload(void) { puts("library"), fflush(stdout); }`,
    );
    vi.stubEnv('GRPO_CUDA_LIBRARY', compileLibrary(folder, 'slow.so', code));
    const ended = await runProgram('exit-with-device');
    vi.unstubAllEnvs();
    rmSync(folder, { recursive: true });
    expect(ended).toMatchObject({ code: 3, stdout: 'device\ndevice\nlibrary\n', stderr: '' });
  });

  test('reports an uncaught exception mid-job', async () => {
    const ended = await runProgram('throw-mid-job');
    expect(ended).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('Error: on purpose') });
  });

  test('ends on SIGINT mid-job', async () => {
    const ended = await runProgram('wait-for-signal', { onOutput: (child) => child.kill('SIGINT') });
    expect(ended).toMatchObject({ code: null, signal: 'SIGINT', stdout: 'working\n', stderr: '' });
  });

  test('can close its device on SIGINT: what waits rejects', async () => {
    const ended = await runProgram('handle-signal', { onOutput: (child) => child.kill('SIGINT') });
    expect(ended).toMatchObject({ code: 0, stdout: 'working\nGRPO_DISPOSED\n', stderr: '' });
  });
});

describe('workers', () => {
  test('can be terminated mid-job, 50 times', async () => {
    const ended = await runProgram('terminate-workers');
    expect(ended).toMatchObject({ code: 0, stdout: '50 workers terminated\n', stderr: '' });
  }, 60_000);

  test('load the addon at the same time, each with its own devices', async () => {
    expect(await runProgram('two-workers')).toMatchObject({ code: 0, stdout: '38400 12800 25600\n', stderr: '' });
  });
});

describe('tensors that were forgotten', () => {
  test('are freed by garbage collection', async () => {
    const ended = await runProgram('forgotten-tensors', { nodeArgs: ['--expose-gc'] });
    expect(ended).toMatchObject({ code: 0, stderr: '' });
    const { liveTensors, liveBytes, peakBytes } = JSON.parse(ended.stdout);
    expect({ liveTensors, liveBytes }).toEqual({ liveTensors: 0, liveBytes: 0 });
    expect(peakBytes).toBeLessThan(1000 * 2 ** 20);
  });
});

test('what keeps memory of somebody else alive is held until nothing uses it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'grpo-kept-'));
  vi.stubEnv('GRPO_CUDA_LIBRARY', compileFixture(folder, 'fake_backend'));
  const ended = await runProgram('kept-alive', { nodeArgs: ['--expose-gc'] });
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true });
  expect(ended).toMatchObject({ code: 0, stderr: '' });
  expect(ended.stdout.trim().split('\n')).toEqual([
    'something that nobody keeps: free',
    'disposed of, with queued work: held',
    'disposed of, and the work has run: free',
    'a view in use: held',
    'a tensor in use: held',
    'forgotten: free',
    'closed: free',
  ]);
});

describe('node --no-addons', () => {
  test('gets an error that says so', async () => {
    const ended = await runProgram('open-cpu', { nodeArgs: ['--no-addons'] });
    expect(ended.stdout).toContain('The native backend is not available');
    expect(ended.stdout).toContain('Start Node without --no-addons');
  });
});
