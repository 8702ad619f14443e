import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { availableParallelism } from 'node:os';
import process from 'node:process';
import type { Readable } from 'node:stream';
import { exitCodeOfProcess, exitCodes } from './exit-codes.js';
import { freePort } from './free-port.js';
import { defaultMasterPort } from './launch-environment.js';
import { launcherVariable } from './launcher-watch.js';

export interface LaunchOptions {
  /** Arguments of Node: the program and its own arguments. */
  command: readonly string[];
  /** Processes on this machine. */
  processes: number;
  /** Machines, and which of them this is. */
  nodes?: number;
  nodeRank?: number;
  /** Where rank 0 listens. Default: this machine, when it is the only one. */
  masterAddress?: string;
  /** Default: a free port when there is one machine, else 29500. */
  masterPort?: number;
  /** Tells runs apart; the same on all machines. Default: made up when there is one machine. */
  runId?: string;
  /** How often the whole world is started again after a failure that may not come again. */
  maxRestarts?: number;
  /** Seconds between the request to end and the end by force. */
  grace?: number;
  /** Receives what the processes say. */
  print?: (stream: 'stdout' | 'stderr', text: string) => void;
}

/** Time in which the ranks that are left end by themselves, with an error that says why. Milliseconds. */
const settleTime = 2000;

/**
 * Starts the processes of a run, each with the variables that torchrun sets, and waits for them. The first that fails ends
 * all. Signals are passed on. Returns the exit code of the first that failed, 75 when it was killed, else 0.
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const print = options.print ?? ((stream, text) => process[stream].write(text));
  const say = (text: string) => print('stderr', `grpo launch: ${text}\n`);
  const runId = options.runId ?? ((options.nodes ?? 1) === 1 ? randomUUID() : '');
  const { maxRestarts = 0 } = options;
  let current: World | null = null;
  let signals = 0;
  const receive = (signal: NodeJS.Signals) => {
    signals++;
    current?.signal(signals > 2 ? 'SIGKILL' : signal === 'SIGHUP' ? 'SIGTERM' : signal);
  };
  const caught = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of caught) process.on(signal, receive);
  try {
    for (let generation = 0; ; generation++) {
      current = await World.start(options, { runId, generation, print });
      const { code, culprit } = await current.end();
      if (code === 0) return 0;
      if (signals === 0) say(culprit);
      const again = code === exitCodes.retryable && signals === 0;
      if (!again || generation >= maxRestarts) return code;
      say(`starting all ranks again from the last checkpoint (${generation + 1} of at most ${maxRestarts})`);
    }
  } finally {
    for (const signal of caught) process.off(signal, receive);
    current?.signal('SIGKILL');
  }
}

interface Ended {
  code: number;
  culprit: string;
}

/** The processes of one start on this machine. */
class World {
  readonly #children: ChildProcess[] = [];
  readonly #running = new Set<ChildProcess>();
  readonly #grace: number;
  readonly #ended: Promise<Ended>;
  #first: (Ended & { wasKilled: boolean }) | null = null;
  #signalled = false;
  #timers: NodeJS.Timeout[] = [];

  private constructor(
    options: LaunchOptions,
    environments: readonly NodeJS.ProcessEnv[],
    print: NonNullable<LaunchOptions['print']>,
  ) {
    this.#grace = (options.grace ?? 10) * 1000;
    const width = String(Number(environments.at(-1)!.RANK)).length;
    this.#ended = new Promise((resolve) => {
      let open = environments.length;
      for (const env of environments) {
        const rank = env.RANK!;
        // A session of its own: Ctrl-C in a terminal comes once, from here. The channel tells it when this process is gone.
        const child = spawn(process.execPath, options.command as string[], {
          env,
          detached: true,
          stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
        });
        this.#children.push(child);
        this.#running.add(child);
        const prefix = environments.length === 1 ? '' : `[${rank.padStart(width)}] `;
        for (const stream of ['stdout', 'stderr'] as const) {
          prefixLines(child[stream]!, prefix, (text) => print(stream, text));
        }
        let failedToStart: Error | null = null;
        child.on('error', (error) => {
          failedToStart = error;
        });
        child.on('exit', (code, signal) => this.#exited(child, rank, code, signal));
        child.on('close', (code, signal) => {
          if (failedToStart) this.#exited(child, rank, exitCodes.failed, null, failedToStart.message);
          else this.#exited(child, rank, code, signal);
          if (--open > 0) return;
          for (const timer of this.#timers) clearTimeout(timer);
          resolve(this.#first ?? { code: 0, culprit: '' });
        });
      }
    });
  }

  static async start(
    options: LaunchOptions,
    { runId, generation, print }: { runId: string; generation: number; print: NonNullable<LaunchOptions['print']> },
  ): Promise<World> {
    const { processes, nodes = 1, nodeRank = 0 } = options;
    const port = options.masterPort ?? (nodes === 1 ? await freePort() : defaultMasterPort);
    const threads = Math.max(1, Math.floor(availableParallelism() / processes));
    // The store of the agent of a torchrun around this launcher is none of ours.
    const { TORCHELASTIC_USE_AGENT_STORE: _, ...inherited } = process.env;
    const environments = Array.from({ length: processes }, (_, localRank) => ({
      GRPO_THREADS: String(threads),
      ...inherited,
      RANK: String(nodeRank * processes + localRank),
      WORLD_SIZE: String(nodes * processes),
      LOCAL_RANK: String(localRank),
      LOCAL_WORLD_SIZE: String(processes),
      GROUP_RANK: String(nodeRank),
      MASTER_ADDR: options.masterAddress ?? '127.0.0.1',
      MASTER_PORT: String(port),
      TORCHELASTIC_RESTART_COUNT: String(generation),
      GRPO_RUN_ID: runId,
      [launcherVariable]: String(process.pid),
    }));
    return new World(options, environments, print);
  }

  /** How the world ended, when all its processes have. */
  end(): Promise<Ended> {
    return this.#ended;
  }

  /** SIGKILL reaches what the processes have started, too. */
  signal(signal: NodeJS.Signals): void {
    this.#signalled = true;
    if (signal === 'SIGKILL') for (const child of this.#children) killGroup(child);
    else for (const child of this.#running) child.kill(signal);
  }

  #exited(child: ChildProcess, rank: string, code: number | null, signal: NodeJS.Signals | null, why = ''): void {
    if (!this.#running.delete(child)) return;
    killGroup(child);
    const exitCode = exitCodeOfProcess(code, signal);
    const first = this.#first;
    const wasKilled = signal !== null && !this.#signalled;
    // Of a rank that was killed another may have learnt, and ended, before this process hears of either.
    const isCause = wasKilled && first?.code === exitCodes.retryable && !first.wasKilled;
    if (exitCode === 0 || (first && !isCause)) return;
    const how = why || (signal ? `was killed by ${signal}` : `ended with ${code}`);
    this.#first = { code: exitCode, culprit: `rank ${rank} ${how}`, wasKilled };
    if (first) return;
    this.#timers = [
      setTimeout(() => this.signal('SIGTERM'), settleTime),
      setTimeout(() => this.signal('SIGKILL'), settleTime + this.#grace),
    ];
  }
}

/** Ends what is left of the session of a process. */
function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // Nothing is left of it.
  }
}

function prefixLines(stream: Readable, prefix: string, print: (text: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (text: string) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop()!;
    if (lines.length > 0) print(lines.map((line) => `${prefix}${line}\n`).join(''));
  });
  stream.on('end', () => {
    if (rest) print(`${prefix}${rest}\n`);
  });
}
