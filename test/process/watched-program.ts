import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

/** A program with what it has said so far. */
export interface Program {
  child: ChildProcess;
  output: string;
  ended: Promise<{ code: number | null; output: string }>;
  /** Waits until the output matches `pattern` so many times, and gives what the first group matched. */
  until(pattern: RegExp, times?: number): Promise<string[]>;
}

const running: ChildProcess[] = [];
/** Processes that a program has started, and that must not outlive it. */
export const leftovers: number[] = [];

/** To be called after each test. */
export function killLeftovers(): void {
  for (const child of running.splice(0)) child.kill('SIGKILL');
  for (const pid of leftovers.splice(0)) if (isAlive(pid)) process.kill(pid, 'SIGKILL');
}

export function start(
  command: string,
  args: string[],
  { env = {}, cwd }: { env?: Record<string, string>; cwd?: string } = {},
): Program {
  const child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  const watchers = new Set<() => void>();
  const program: Program = {
    child,
    output: '',
    ended: once(child, 'close').then(([code]) => ({ code, output: program.output })),
    until: (pattern, times = 1) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = [...program.output.matchAll(new RegExp(pattern, 'g'))].map((match) => match[1] ?? match[0]);
          if (found.length < times) return;
          watchers.delete(look);
          resolve(found);
        };
        watchers.add(look);
        child.once('close', () => reject(new Error(`it ended before ${pattern}:\n${program.output}`)));
        look();
      }),
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      program.output += text;
      for (const look of watchers) look();
    });
  }
  return program;
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Those that are still alive after some seconds. */
export async function untilDead(pids: readonly number[], seconds: number): Promise<number[]> {
  const deadline = Date.now() + seconds * 1000;
  while (pids.some(isAlive) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
  return pids.filter(isAlive);
}
