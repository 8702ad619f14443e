import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import '../../src/platform/node.js';
import { freePort } from '../../src/distributed/free-port.js';
import { saveTinyModel } from '../saved-model.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export interface RankResult {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  /** From the start of all ranks to the end of this one. */
  milliseconds: number;
}

export interface StartOptions {
  folder: string;
  /** Counts the starts of one run; above 0 the run goes on from its last checkpoint. */
  generation?: number;
  /** Variables of one rank. */
  envOf?: (rank: number) => NodeJS.ProcessEnv;
  /** Called with all that a rank has written to standard error, whenever it writes more. */
  onError?: (rank: number, text: string, children: readonly ChildProcess[]) => void;
  /** The program, when it is not the command line. */
  file?: string;
  /** Time after the end of a rank that failed in which the others must end too. Milliseconds. */
  patience?: number;
}

/** Runs the command line in `worldSize` processes, as a launcher does, with a limit of a minute and a half. */
export async function runTraining(
  worldSize: number,
  args: readonly string[],
  { folder, generation = 0, envOf = () => ({}), onError = () => {}, file = program, patience = 12_000 }: StartOptions,
): Promise<RankResult[]> {
  const port = await freePort();
  const start = performance.now();
  const children: ChildProcess[] = [];
  const ends = Array.from({ length: worldSize }, async (_, rank): Promise<RankResult> => {
    const env = {
      ...{ ...process.env, RANK: `${rank}`, LOCAL_RANK: `${rank}`, WORLD_SIZE: `${worldSize}` },
      ...{ LOCAL_WORLD_SIZE: `${worldSize}`, MASTER_ADDR: '127.0.0.1', MASTER_PORT: `${port}` },
      ...{ TORCHELASTIC_RESTART_COUNT: `${generation}`, ...envOf(rank) },
    };
    const options = { cwd: folder, env, timeout: 90_000, killSignal: 'SIGKILL' } as const;
    const child = spawn(process.execPath, [file, ...args], { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    children.push(child);
    const result: RankResult = { code: null, signal: null, stdout: '', stderr: '', milliseconds: 0 };
    child.stdout!.on('data', (text) => {
      result.stdout += text;
    });
    child.stderr!.on('data', (text) => {
      result.stderr += text;
      onError(rank, result.stderr, children);
    });
    [result.code, result.signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
    result.milliseconds = performance.now() - start;
    // A rank that was stopped does not end by itself; a launcher ends it when another one has given up.
    if (result.code !== 0) for (const other of children) if (other !== child) killLater(other, patience);
    return result;
  });
  return Promise.all(ends);
}

/** Ends what is still there after the time in which it should have ended by itself. */
function killLater(child: ChildProcess, after: number): void {
  setTimeout(() => child.kill('SIGKILL'), after).unref();
}

/** A tiny model, data, a reward and a configuration of 6 updates with a checkpoint each. */
export async function writeRun(folder: string, { more = '' } = {}): Promise<void> {
  await saveTinyModel(join(folder, 'model'));
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `${i}+${i}=`, completion: `${2 * i}` }));
  await writeFile(join(folder, 'data.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const reward = `export const digits = (batch) =>
    batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length / 8);`;
  await writeFile(join(folder, 'reward.mjs'), reward);
  const config = `model: model
dataset: data.jsonl
rewards: ./reward.mjs#digits
device: cpu
threads: 1
networkInterface: 127.0.0.1
maxSteps: 6
saveSteps: 1
numGenerations: 4
perDeviceTrainBatchSize: 4
maxCompletionLength: 8
learningRate: 1e-3
stop: ['0', 'e']
${more}`;
  await writeFile(join(folder, 'run.yaml'), config);
}
