import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  milliseconds: number;
}

/** Runs a file of test/process/programs in a Node of its own, to its end or for a minute. */
export async function runProgram(name: string, { nodeArgs = [] as string[], onOutput = (_: ChildProcess) => {} } = {}) {
  const file = fileURLToPath(new URL(`programs/${name}.mjs`, import.meta.url));
  const start = performance.now();
  const child = spawn(process.execPath, [...nodeArgs, file], { stdio: ['ignore', 'pipe', 'pipe'], timeout: 60_000 });
  const ended: Ended = { code: null, signal: null, stdout: '', stderr: '', milliseconds: 0 };
  child.stderr.on('data', (text) => (ended.stderr += text));
  child.stdout.on('data', (text) => {
    if (ended.stdout === '') onOutput(child);
    ended.stdout += text;
  });
  [ended.code, ended.signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  ended.milliseconds = performance.now() - start;
  return ended;
}
