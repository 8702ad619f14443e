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
