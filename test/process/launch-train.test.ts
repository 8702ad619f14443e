import { execFileSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { freePort } from '../../src/distributed/free-port.js';
import '../../src/platform/node.js';
import { saveTinyModel } from '../saved-model.js';
import { addresses, cutLink, hosts, makeHosts, removeHosts } from './two-hosts.js';
import { killLeftovers, leftovers, type Program, start, untilDead } from './watched-program.js';

// Each test starts several processes that train, on a machine that may be busy.
vi.setConfig({ testTimeout: 120_000 });

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
let folder = '';

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-launch-'));
  await saveTinyModel(join(folder, 'model'));
  const rows = Array.from({ length: 12 }, (_, i) => ({ prompt: `${i}+${i}=` }));
  await writeFile(join(folder, 'data.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  // Says where its process is, and is slow enough that a signal arrives in the middle of a run. Kills its process
  // where a test asks for it by creating the file `kill-<rank>-<call>`: once, as the file goes with it.
  const reward = `import { existsSync, rmSync } from 'node:fs';
  let calls = 0;
  export const digits = async (batch) => {
    console.log('reward ' + ++calls + ' of rank ' + process.env.RANK + ' pid ' + process.pid);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const killed = 'kill-' + process.env.RANK + '-' + calls;
    if (existsSync(killed)) {
      rmSync(killed);
      process.kill(process.pid, 'SIGKILL');
    }
    return batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length / 8);
  };`;
  await writeFile(join(folder, 'reward.mjs'), reward);
  const config = `model: model
dataset: data.jsonl
rewards: ./reward.mjs#digits
device: cpu
threads: 1
maxSteps: 6
numGenerations: 4
perDeviceTrainBatchSize: 4
maxCompletionLength: 8
learningRate: 1e-3
saveSteps: 2
`;
  await writeFile(join(folder, 'run.yaml'), config);
});
afterEach(killLeftovers);
afterAll(() => rm(folder, { recursive: true, force: true }));

function grpo(args: string[], env: Record<string, string> = {}): Program {
  return start(process.execPath, [program, ...args], { cwd: folder, env });
}

function launch(run: string, { options = [] as string[], flags = [] as string[] } = {}): Program {
  const train = ['train', 'run.yaml', '--output-dir', `runs/${run}`, ...flags];
  return grpo(['launch', '--nproc', '2', '--grace', '2', ...options, '--', ...train]);
}

/** Waits until a rank scores its completions for the `call`th time, and gives its process. */
async function pidAt(world: Program, rank: number, call: number): Promise<number> {
  const [pid] = await world.until(new RegExp(`reward ${call} of rank ${rank} pid (\\d+)`));
  for (const [, found] of world.output.matchAll(/of rank \d+ pid (\d+)/g)) leftovers.push(Number(found));
  return Number(pid);
}

/** Waits until a process has so many children. */
async function childrenOf(pid: number, count: number): Promise<number[]> {
  for (;;) {
    const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
    const found = text.trim().split(' ').filter(Boolean).map(Number);
    if (found.length === count) return found;
    await sleep(20);
  }
}

async function untilListening(port: number): Promise<void> {
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    const open = await new Promise((resolve) =>
      socket.on('connect', () => resolve(true)).on('error', () => resolve(false)),
    );
    socket.destroy();
    if (open) return;
    await sleep(20);
  }
}

/** What a run measured, apart from times. */
async function measured(run: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(join(folder, 'runs', run, 'metrics.jsonl'), 'utf8');
  const rows = text.split('\n').flatMap((line) => (line ? [JSON.parse(line)] : []));
  return rows.map(({ time: _, step_seconds: _s, tokens_per_second: _t, ...rest }) => rest);
}

const weights = (run: string) => readFile(join(folder, 'runs', run, 'model/model.safetensors'));

describe('a run of grpo train on two ranks', () => {
  beforeAll(async () => {
    const { code, output } = await launch('whole').ended;
    expect(output).toMatch(/^\[0\] step 6\/6/m);
    expect(code).toBe(0);
  }, 120_000);

  it('survives a killed rank with --max-restarts, and gives the same bits', async () => {
    await writeFile(join(folder, 'kill-1-4'), '');
    const { code, output } = await launch('killed', { options: ['--max-restarts', '2'] }).ended;
    expect(output).toMatch(/\[0\] grpo: Rank 1 \(127.*\) died: .*, while it was doing: rollout/);
    expect(output).toContain('rank 1 was killed by SIGKILL');
    expect(output).toContain('starting all ranks again from the last checkpoint (1 of at most 2)');
    expect(output).toMatch(/\[0\] Resumed from .*checkpoint-2/);
    expect(code).toBe(0);
    expect(await measured('killed')).toEqual(await measured('whole'));
    expect(await weights('killed')).toEqual(await weights('whole'));
  });

  it('finishes the step at Ctrl-C, and writes one checkpoint', async () => {
    const world = launch('stopped');
    await pidAt(world, 0, 3);
    world.child.kill('SIGINT');
    const { code, output } = await world.ended;
    expect(output.match(/Finishing this step, then saving/g)).toHaveLength(1);
    expect(output).toMatch(/Stopped after step [1-5] of 6\. Checkpoint: .*checkpoint-[1-5]/);
    expect(code).toBe(130);
  });

  it('leaves nothing behind when the launcher is killed', async () => {
    const world = launch('orphans', { flags: ['--max-steps', '1000'] });
    const pids = [await pidAt(world, 0, 2), await pidAt(world, 1, 2)];
    world.child.kill('SIGKILL');
    expect(await untilDead(pids, 30)).toEqual([]);
  });

  it.each(['while its processes start', 'while they wait for others'])(
    'leaves nothing behind when the launcher is killed %s',
    async (when) => {
      const port = String(await freePort());
      const world = ['--nnodes', '2', '--node-rank', '0', '--master-addr', '127.0.0.1', '--master-port', port];
      const launcher = launch('waiting', { options: world });
      const pids = await childrenOf(launcher.child.pid!, 2);
      leftovers.push(...pids);
      if (when !== 'while its processes start') await untilListening(Number(port));
      launcher.child.kill('SIGKILL');
      expect(await untilDead(pids, 30)).toEqual([]);
    },
  );

  it('is not started again for what would fail again', async () => {
    const { code, output } = await launch('whole', { options: ['--max-restarts', '3'] }).ended;
    expect(output).toMatch(/\[0\] grpo: .*already holds a run/);
    expect(output).not.toContain('starting all ranks again');
    expect(code).toBe(2);
  });

  it('is refused on every rank when their configurations differ', async () => {
    const common = { WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) };
    const ranks = ['1e-3', '2e-3'].map((rate, rank) => {
      const args = ['train', 'run.yaml', '--output-dir', 'runs/differ', '--learning-rate', rate];
      return grpo(args, { ...common, RANK: String(rank), LOCAL_RANK: String(rank) }).ended;
    });
    for (const { code, output } of await Promise.all(ranks)) {
      expect(output).toMatch(/Rank 1 has a configuration with hash .* \(learningRate: 0\.002 against 0\.001\)/);
      expect(code).toBe(2);
    }
  });

  it('names what a launcher forgot to set', async () => {
    const { code, output } = await grpo(['train', 'run.yaml'], { RANK: '0', WORLD_SIZE: '2' }).ended;
    expect(output).toContain('The settings of torchrun cannot be used: missing: MASTER_ADDR');
    expect(code).toBe(2);
  });

  it('refuses a list of devices without one for a rank', async () => {
    const { code, output } = await launch('devices', { flags: ['--device', 'auto', '--devices', 'cpu'] }).ended;
    expect(output).toContain('devices: has 1 entry, but this is local rank 1');
    expect(code).toBe(2);
  });

  it('runs under mpirun as it is', async ({ skip }) => {
    try {
      execFileSync('mpirun', ['--version'], { stdio: 'ignore' });
    } catch {
      skip('mpirun is not installed');
    }
    const options = ['--allow-run-as-root', '--oversubscribe', '-n', '2', '-x', 'MASTER_ADDR', '-x', 'MASTER_PORT'];
    const args = [...options, process.execPath, program, 'train', 'run.yaml', '--output-dir', 'runs/mpi'];
    const env = { MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(await freePort()) };
    const { code, output } = await start('mpirun', args, { cwd: folder, env }).ended;
    expect(output).toContain('2 ranks, by the settings of Open MPI');
    expect(code).toBe(0);
    expect(await measured('mpi')).toEqual(await measured('whole'));
  });
});

describe('a run on two hosts', () => {
  it('ends on both when the link between them is cut', async ({ skip, onTestFinished }) => {
    const reason = makeHosts();
    if (reason) skip(`network namespaces cannot be made here: ${reason}`);
    onTestFinished(removeHosts);
    const on = (node: number) => {
      const world = ['--nproc', '1', '--nnodes', '2', '--node-rank', `${node}`, '--master-addr', addresses[0]];
      const limits = ['--hung-after', '4', '--max-steps', '10000'];
      const train = ['train', 'run.yaml', '--output-dir', 'runs/hosts', ...limits];
      const launcher = [process.execPath, program, 'launch', ...world, '--grace', '2', '--', ...train];
      return start('ip', ['netns', 'exec', hosts[node]!, ...launcher], { cwd: folder });
    };
    const [here, there] = [on(0), on(1)];
    const pids = [await pidAt(here, 0, 3), await pidAt(there, 1, 3)];
    cutLink();
    const ends = await Promise.all([here.ended, there.ended]);
    expect(ends.map(({ code }) => code)).toEqual([75, 75]);
    expect(ends[0].output).toMatch(/Rank 1 \(10\.199\.0\.2:\d+\) hangs: no sign of life for/);
    expect(ends[1].output).toMatch(/Rank 0 \(10\.199\.0\.1:29500\) (gave rank 1 no sign of life for|died)/);
    expect(await untilDead(pids, 5)).toEqual([]);
  });
});
