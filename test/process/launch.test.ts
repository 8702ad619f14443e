import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { killLeftovers, leftovers, type Program, start, untilDead } from './watched-program.js';

// Node processes start slowly on a busy machine.
vi.setConfig({ testTimeout: 90_000 });

const programs = fileURLToPath(new URL('programs', import.meta.url));
/** Nobody is taken for dead in a test that does not wait for it. */
const patient = { heartbeat: 0.2, hungAfter: 30 };

afterEach(killLeftovers);

function launch(what: object, options: object = {}): Program {
  return start(process.execPath, [`${programs}/launch.mjs`, JSON.stringify({ what, grace: 1, ...options })]);
}

/** The processes of a world, by rank. */
async function pidsOf(world: Program, size: number): Promise<number[]> {
  await world.until(/ready \d+ start/, size);
  const pids = [...world.output.matchAll(/\[(\d+)\] ready (\d+)/g)];
  const sorted = pids.toSorted((a, b) => Number(a[1]) - Number(b[1])).map((match) => Number(match[2]));
  leftovers.push(...sorted);
  return sorted;
}

function errorsIn(output: string): { rank: number; code: string; message: string; ranks: number[] }[] {
  return [...output.matchAll(/^\[(\d+)\] error (.*)$/gm)].map(([, rank, json]) => ({
    rank: Number(rank),
    ...JSON.parse(json!),
  }));
}

describe('grpo launch', () => {
  it('starts the ranks, marks their lines, and ends with 0', async () => {
    const { code, output } = await launch({ limits: patient, work: 2 }, { processes: 3 }).ended;
    expect(output).toMatch(/^\[0\] done$/m);
    expect(output).toMatch(/^\[2\] done$/m);
    expect(code).toBe(0);
  });

  it('stops all ranks when one is killed: the others name it and what it did, and a restart makes sense', async () => {
    const world = launch({ limits: patient, activity: 'backward of step 4' }, { processes: 3 });
    const pids = await pidsOf(world, 3);
    process.kill(pids[1]!, 'SIGKILL');
    const killed = Date.now();
    const { code, output } = await world.ended;
    expect(Date.now() - killed).toBeLessThan(15_000);
    const errors = errorsIn(output);
    expect(errors.map(({ rank }) => rank).sort()).toEqual([0, 2]);
    for (const { code: name, message, ranks } of errors) {
      expect(name).toBe('GRPO_RANK_DIED');
      expect(ranks).toEqual([1]);
      expect(message).toMatch(/^Rank 1 .* died: .*, while it was doing: backward of step 4$/);
    }
    expect(output).toContain('grpo launch: rank 1 was killed by SIGKILL');
    expect(code).toBe(75);
    expect(await untilDead(pids, 5)).toEqual([]);
  });

  it('stops all ranks when rank 0 is killed', async () => {
    const world = launch({ limits: patient, activity: 'checkpoint of step 2' }, { processes: 2 });
    const pids = await pidsOf(world, 2);
    // Rank 0 tells what it does with its heartbeats.
    await new Promise((resolve) => setTimeout(resolve, 700));
    process.kill(pids[0]!, 'SIGKILL');
    const { code, output } = await world.ended;
    expect(errorsIn(output)).toMatchObject([{ rank: 1, code: 'GRPO_RANK_DIED', ranks: [0] }]);
    expect(output).toContain('while it was doing: checkpoint of step 2');
    expect(code).toBe(75);
  });

  it.each([1, 0])('notices rank %i when it is stopped, and leaves no process behind', async (stopped) => {
    const limits = { heartbeat: 0.3, hungAfter: 3 };
    const world = launch({ limits, activity: 'all-reduce 12' }, { processes: 3 });
    const pids = await pidsOf(world, 3);
    await new Promise((resolve) => setTimeout(resolve, 700));
    process.kill(pids[stopped]!, 'SIGSTOP');
    const { code, output } = await world.ended;
    const errors = errorsIn(output).filter(({ rank }) => rank !== stopped);
    expect(errors).toHaveLength(2);
    for (const { code: name, ranks, message } of errors) {
      expect(name).toBe('GRPO_RANK_HUNG');
      expect(ranks).toEqual([stopped]);
      expect(message).toMatch(/no sign of life for [\d.]+ s.*, while it was doing: all-reduce 12/);
    }
    expect(code).toBe(75);
    expect(await untilDead(pids, 5)).toEqual([]);
  });

  it('lets a slow rank work, even one whose thread is busy for longer than a heartbeat', async () => {
    const limits = { heartbeat: 0.1, hungAfter: 4 };
    const { code, output } = await launch({ limits, slow: 1, work: 8 }, { processes: 2 }).ended;
    expect(errorsIn(output)).toEqual([]);
    expect(code).toBe(0);
  });

  it('ends with the code of a rank that failed for a reason of its own, and does not start again', async () => {
    const world = launch({ limits: patient, exits: { rank: 1, code: 3 } }, { processes: 2, maxRestarts: 2 });
    const { code, output } = await world.ended;
    expect(output).toContain('grpo launch: rank 1 ended with 3');
    expect(output).not.toContain('start 1');
    expect(code).toBe(3);
  });

  it('an exception of one rank is the error of all, and a restart makes no sense', async () => {
    const { code, output } = await launch({ limits: patient, throws: 1 }, { processes: 3, maxRestarts: 2 }).ended;
    const errors = errorsIn(output);
    expect(errors).toHaveLength(3);
    for (const { message } of errors) expect(message).toMatch(/^Rank 1 failed.*: TypeError: a mistake$/);
    expect(output).not.toContain('start 1');
    expect(code).toBe(1);
  });

  it('--max-restarts starts the world again under the next number', async () => {
    const { code, output } = await launch({ limits: patient, dies: 1, work: 2 }, { processes: 2, maxRestarts: 1 })
      .ended;
    expect(output).toContain('starting all ranks again from the last checkpoint (1 of at most 1)');
    expect(output.match(/ready \d+ start 1/g)).toHaveLength(2);
    expect(output.match(/done/g)).toHaveLength(2);
    expect(code).toBe(0);
  });

  it('gives up after so many restarts, with the code that says that another may help', async () => {
    const world = launch({ limits: patient, dies: 0, starts: 9 }, { processes: 2, maxRestarts: 1 });
    const { code, output } = await world.ended;
    expect(output.match(/was killed by SIGKILL/g)).toHaveLength(2);
    expect(code).toBe(75);
  });

  it('passes Ctrl-C on once, and does not start again', async () => {
    const world = launch({ limits: patient }, { processes: 2, maxRestarts: 3 });
    const pids = await pidsOf(world, 2);
    world.child.kill('SIGINT');
    const { code, output } = await world.ended;
    expect(output.match(/interrupted/g)!.length).toBeLessThanOrEqual(2);
    expect(output).not.toContain('start 1');
    expect(code).toBe(130);
    expect(await untilDead(pids, 5)).toEqual([]);
  });

  it('leaves nothing behind when it is killed itself', async () => {
    const world = launch({ limits: patient }, { processes: 3 });
    const pids = await pidsOf(world, 3);
    world.child.kill('SIGKILL');
    expect(await untilDead(pids, 20)).toEqual([]);
  });

  it('ends what the ranks have started', async () => {
    const world = launch({ limits: patient, child: true, work: 2 }, { processes: 2 });
    const children = (await world.until(/child (\d+)/, 2)).map(Number);
    leftovers.push(...children);
    expect((await world.ended).code).toBe(0);
    expect(await untilDead(children, 5)).toEqual([]);
  });
});

const hosts = ['grpo-test-a', 'grpo-test-b'] as const;

/** Two hosts with a network between them, on this machine; null with the reason when it does not let us. */
function makeHosts(): string | null {
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  removeHosts();
  try {
    for (const host of hosts) {
      ip('netns', 'add', host);
      ip('-n', host, 'link', 'set', 'lo', 'up');
    }
    ip('link', 'add', 'grpo-a', 'netns', hosts[0], 'type', 'veth', 'peer', 'name', 'grpo-b', 'netns', hosts[1]);
    hosts.forEach((host, i) => {
      const link = `grpo-${'ab'[i]}`;
      ip('-n', host, 'addr', 'add', `10.199.0.${i + 1}/24`, 'dev', link);
      ip('-n', host, 'link', 'set', link, 'up');
    });
    return null;
  } catch (error) {
    removeHosts();
    return (error as Error).message.split('\n')[0]!;
  }
}

function removeHosts(): void {
  for (const host of hosts) {
    try {
      execFileSync('ip', ['netns', 'del', host], { stdio: 'ignore' });
    } catch {
      // It was not there.
    }
  }
}

describe('two hosts', () => {
  it('notice when the link between them is cut', async ({ skip, onTestFinished }) => {
    const reason = makeHosts();
    if (reason) skip(`network namespaces cannot be made here: ${reason}`);
    onTestFinished(removeHosts);
    const on = (nodeRank: number) => {
      const what = { limits: { heartbeat: 0.3, hungAfter: 3 }, activity: `step 9 on host ${nodeRank}` };
      const world = { processes: 2, nodes: 2, nodeRank, masterAddress: '10.199.0.1', masterPort: 29_511, runId: 'two' };
      const options = JSON.stringify({ what, grace: 1, ...world });
      return start('ip', ['netns', 'exec', hosts[nodeRank]!, process.execPath, `${programs}/launch.mjs`, options]);
    };
    const [first, second] = [on(0), on(1)];
    await Promise.all([first.until(/ready \d+/, 2), second.until(/ready \d+/, 2)]);
    await new Promise((resolve) => setTimeout(resolve, 700));
    execFileSync('ip', ['-n', hosts[1], 'link', 'set', 'grpo-b', 'down']);
    const [here, there] = await Promise.all([first.ended, second.ended]);
    for (const { code: name, message } of errorsIn(here.output)) {
      expect(name).toBe('GRPO_RANK_HUNG');
      expect(message).toMatch(/Rank 2 \(10\.199\.0\.2.* while it was doing: step 9 on host 1/);
    }
    expect(errorsIn(here.output)).toHaveLength(2);
    for (const { code: name, message } of errorsIn(there.output)) {
      expect(name).toMatch(/GRPO_RANK_(HUNG|DIED)/);
      expect(message).toMatch(/^Rank 0 \(10\.199\.0\.1:29511\)/);
    }
    expect(errorsIn(there.output)).toHaveLength(2);
    expect([here.code, there.code]).toEqual([75, 75]);
  });
});
