import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export interface RankEnded {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  /** What the rank reported, in order. */
  reports: unknown[];
  /** From the start of all ranks to the end of this one. */
  milliseconds: number;
}

export interface RankOptions {
  /** Called with what a rank reports, as it comes. */
  onReport?: (rank: number, report: unknown, children: ChildProcess[]) => void;
  env?: NodeJS.ProcessEnv;
  /** Given to the scenario. */
  argument?: unknown;
}

/**
 * Runs a scenario of programs/collective-rank.mjs in `worldSize` processes, and is their store: a key that one rank sets
 * goes to all that ask for it.
 */
export async function runRanks(scenario: string, worldSize: number, options: RankOptions = {}): Promise<RankEnded[]> {
  const file = fileURLToPath(new URL('programs/collective-rank.mjs', import.meta.url));
  const start = performance.now();
  const children: ChildProcess[] = [];
  const known = new Map<string, string>();
  const waiting: { child: ChildProcess; key: string }[] = [];
  const answer = () => {
    for (const entry of waiting.splice(0)) {
      const value = known.get(entry.key);
      if (value === undefined) waiting.push(entry);
      else if (entry.child.connected) entry.child.send({ key: entry.key, value });
    }
  };
  const ends = Array.from({ length: worldSize }, async (_, rank) => {
    const args = [scenario, String(rank), String(worldSize), JSON.stringify(options.argument ?? null)];
    const child = fork(file, args, {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      timeout: 60_000,
      killSignal: 'SIGKILL',
      env: { ...process.env, GRPO_THREADS: '1', ...options.env },
    });
    children.push(child);
    const ended: RankEnded = { code: null, signal: null, stderr: '', reports: [], milliseconds: 0 };
    child.stderr!.on('data', (text) => (ended.stderr += text));
    child.on('message', (message: { set?: string; value?: string; get?: string; report?: unknown }) => {
      if (message.set) known.set(message.set, message.value!);
      if (message.get) waiting.push({ child, key: message.get });
      answer();
      if ('report' in message) {
        ended.reports.push(message.report);
        options.onReport?.(rank, message.report, children);
      }
    });
    [ended.code, ended.signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
    ended.milliseconds = performance.now() - start;
    return ended;
  });
  return Promise.all(ends);
}
