import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import '../../src/platform/node.js';
import { saveTinyModel } from '../saved-model.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-serve-'));
  await saveTinyModel(join(folder, 'model'));
  await writeFile(join(folder, 'key'), 'a-secret\n');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const children: ChildProcess[] = [];
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
});

/** Starts `grpo serve`; `url` is known when it answers. */
async function start(args: string[], env: Record<string, string> = {}) {
  const all = [
    'serve',
    '--model',
    'model',
    '--port',
    '0',
    '--device',
    'cpu',
    '--threads',
    '1',
    '--cache-bytes',
    '4000000',
  ];
  const child = spawn(process.execPath, [program, ...all, ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  children.push(child);
  const output = { stderr: '', stdout: '' };
  const closed = once(child, 'close') as Promise<[number | null]>;
  child.stdout.on('data', (text) => {
    output.stdout += text;
  });
  await new Promise<void>((resolve) => {
    child.stderr.on('data', (text) => {
      output.stderr += text;
      if (output.stderr.includes('Serving')) resolve();
    });
    closed.then(() => resolve());
  });
  const url = /http:\S+/.exec(output.stderr)?.[0] ?? '';
  return { child, output, url, closed };
}

const long = { model: 'model', prompt: 'a', max_tokens: 120, n: 8, ignore_eos: true } as {
  model: string;
  prompt: string;
  max_tokens: number;
};

it('serves until a signal, which lets requests end', async () => {
  const { child, output, url, closed } = await start(['--api-key-file', 'key']);
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/v1$/);
  const client = new OpenAI({ baseURL: url, apiKey: 'a-secret', maxRetries: 0 });
  expect((await client.models.list()).data[0]!.id).toBe('model');
  const running = client.completions.create(long);
  const load = () => fetch(url.replace('/v1', '/health')).then((response) => response.json());
  while (((await load()) as { running: number }).running === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill('SIGTERM');
  expect((await running).choices).toHaveLength(8);
  expect((await closed)[0]).toBe(0);
  expect(output.stderr).toContain('Ending what runs');
  expect(output.stderr + output.stdout).not.toContain('a-secret');
});

it('takes the key from the environment, and refuses strangers', async () => {
  const { child, url, closed } = await start([], { GRPO_API_KEY: 'from-env' });
  const ask = (apiKey: string) => new OpenAI({ baseURL: url, apiKey, maxRetries: 0 }).models.list();
  await expect(ask('a-secret')).rejects.toThrow(OpenAI.AuthenticationError);
  expect((await ask('from-env')).data).toHaveLength(1);
  child.kill('SIGINT');
  expect((await closed)[0]).toBe(0);
});

it('says what keeps it from serving', async () => {
  const first = await start([]);
  const port = new URL(first.url).port;
  const second = await start(['--port', port]);
  expect((await second.closed)[0]).toBe(1);
  expect(second.output.stderr).toMatch(/Cannot listen at 127\.0\.0\.1:\d+: .*EADDRINUSE/);
  const absent = await start(['--api-key-file', 'absent']);
  expect(absent.output.stderr).toMatch(/absent: there is no such file/);
  expect((await start(['--port', '70000'])).output.stderr).toMatch(/--port/);
  expect((await start(['--max-batch', '0'])).output.stderr).toMatch(/maxBatch/);
});
