import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { ControlLimits } from '../../../src/distributed/control-limits.js';
import { ControlPlane, type RunIdentity } from '../../../src/distributed/control-plane.js';
import { type DistributedError, RankFailedError, RendezvousError } from '../../../src/distributed/errors.js';
import { freePort } from '../../../src/distributed/free-port.js';
import type { LaunchEnvironment } from '../../../src/distributed/launch-environment.js';
import { CollectiveError, GrpoError } from '../../../src/errors.js';

const run: RunIdentity = { version: '1.0.0', configHash: 'abc', config: { seed: '1' } };
/** Generous: the machine may be busy. A test that waits for one of them sets it low. */
const limits: Partial<ControlLimits> = { joinTimeout: 20, heartbeat: 0.2, hungAfter: 15 };
const open: ControlPlane[] = [];
afterEach(async () => {
  for (const plane of open.splice(0).reverse()) await plane.close();
});

function place(rank: number, worldSize: number, masterPort: number, more: Partial<LaunchEnvironment> = {}) {
  const common = { launcher: 'test', localRank: rank, masterAddress: '127.0.0.1', runId: 'r', generation: 0 };
  return { ...common, rank, worldSize, masterPort, ...more };
}

async function join(
  environment: LaunchEnvironment,
  identity = run,
  more: Partial<ControlLimits> = {},
): Promise<ControlPlane> {
  const plane = await ControlPlane.join(environment, identity, { ...limits, ...more });
  open.push(plane);
  return plane;
}

async function world(size: number, more: Partial<ControlLimits> = {}): Promise<ControlPlane[]> {
  const port = await freePort();
  return Promise.all(Array.from({ length: size }, (_, rank) => join(place(rank, size, port), run, more)));
}

/** What each attempt ended with; a success is an error of the test. */
async function errorsOf(attempts: readonly Promise<unknown>[]): Promise<DistributedError[]> {
  const ends = await Promise.allSettled(attempts);
  return ends.map((end) => (end.status === 'rejected' ? end.reason : new Error('it did not fail')));
}

function abortOf(plane: ControlPlane): Promise<DistributedError> {
  return new Promise((resolve) => plane.onAbort(resolve));
}

describe('processes that fit together', () => {
  it('meet, whoever comes first, and part when all have said goodbye', async () => {
    const port = await freePort();
    const early = [join(place(2, 3, port)), join(place(1, 3, port))];
    await new Promise((resolve) => setTimeout(resolve, 150));
    const planes = await Promise.all([join(place(0, 3, port)), ...early]);
    expect(planes.map((plane) => plane.failure)).toEqual([null, null, null]);
    let parted = 0;
    const leaving = planes.slice(1).map((plane) => plane.leave().then(() => parted++));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(parted).toBe(0);
    await planes[0]!.leave();
    await Promise.all(leaving);
    expect(parted).toBe(2);
    expect(await freePort()).toBeGreaterThan(0);
    await expect(once(connect(port, '127.0.0.1'), 'connect')).rejects.toThrow('ECONNREFUSED');
  });

  it('share keys and values, and wait for those that are not there yet', async () => {
    const [first, second] = (await world(2)) as [ControlPlane, ControlPlane];
    const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => i % 251);
    const waiting = first.store.get('later');
    await second.store.set('now', bytes);
    expect(Buffer.compare(await first.store.get('now'), bytes)).toBe(0);
    await second.store.set('later', new Uint8Array([7]));
    expect([...(await waiting)]).toEqual([7]);
    expect([...(await second.store.get('later'))]).toEqual([7]);
  });

  it('a world of one needs nobody', async () => {
    const [only] = (await world(1)) as [ControlPlane];
    await only.store.set('a', new Uint8Array([1]));
    expect([...(await only.store.get('a'))]).toEqual([1]);
    await only.leave();
    await only.leave();
  });
});

describe('processes that do not fit together get the same error on every rank', () => {
  it('two with one rank', async () => {
    const port = await freePort();
    const errors = await errorsOf([join(place(0, 3, port)), join(place(1, 3, port)), join(place(1, 3, port))]);
    for (const error of errors) {
      expect(error).toBeInstanceOf(RendezvousError);
      expect(error.code).toBe('GRPO_RENDEZVOUS_DUPLICATE_RANK');
      expect(error.message).toMatch(/Rank 1 has joined twice: from 127\.0\.0\.1:\d+ and from 127\.0\.0\.1:\d+/);
      expect(error.ranks).toEqual([1]);
      expect(error.exitCode).toBe(2);
      expect(error.retryable).toBe(false);
    }
  });

  it('another world size', async () => {
    const port = await freePort();
    const errors = await errorsOf([join(place(0, 3, port)), join(place(1, 4, port)), join(place(2, 4, port))]);
    for (const error of errors) {
      expect(error.code).toBe('GRPO_RENDEZVOUS_MISMATCH');
      expect(error.message).toContain('Rank 1 has a world size of 4, but rank 0 has 3');
      expect(error.message).toContain('Rank 2 has a world size of 4, but rank 0 has 3');
      expect([...error.ranks].sort()).toEqual([1, 2]);
    }
  });

  it('another version, and another configuration with the options that differ', async () => {
    const port = await freePort();
    const other = { version: '1.0.1', configHash: 'abd', config: { seed: '2', beta: '0.1' } };
    const errors = await errorsOf([join(place(0, 2, port)), join(place(1, 2, port), other)]);
    for (const error of errors) {
      expect(error.message).toContain('Rank 1 has version 1.0.1, but rank 0 has 1.0.0');
      expect(error.message).toMatch(/hash abd, but rank 0 has abc \(beta: 0\.1 against absent; seed: 2 against 1\)/);
      expect(error.exitCode).toBe(2);
    }
    expect(errors[1]!.message).toBe(errors[0]!.message);
  });

  it('too few: the error names who is missing and says that another try may help', async () => {
    const port = await freePort();
    const short = { joinTimeout: 1 };
    const errors = await errorsOf([join(place(0, 4, port), run, short), join(place(2, 4, port), run, short)]);
    for (const error of errors) {
      expect(error.code).toBe('GRPO_RENDEZVOUS_TIMEOUT');
      expect(error.message).toBe('Ranks 1, 3 of 4 did not join within 1 s');
      expect(error.ranks).toEqual([1, 3]);
      expect(error.exitCode).toBe(75);
    }
  });
});

describe('a process that does not belong to the run', () => {
  it('with the rank of one that is there is turned away, and the run goes on', async () => {
    const port = await freePort();
    const planes = await Promise.all([join(place(0, 2, port)), join(place(1, 2, port))]);
    const [error] = await errorsOf([join(place(1, 2, port))]);
    expect(error).toMatchObject({ code: 'GRPO_RENDEZVOUS_DUPLICATE_RANK', ranks: [1] });
    expect(error!.message).toContain('all 2 ranks of this run have joined already');
    await Promise.all(planes.map((plane) => plane.leave()));
  });

  it('left over from an earlier start, or of another run, is turned away, and the run goes on', async () => {
    const port = await freePort();
    const first = join(place(0, 2, port, { generation: 3 }));
    const errors = await errorsOf([
      join(place(1, 2, port, { generation: 2 })),
      join(place(1, 2, port, { generation: 3, runId: 's' })),
    ]);
    expect(errors[0]).toMatchObject({ code: 'GRPO_RENDEZVOUS_STALE', exitCode: 1 });
    expect(errors[0]!.message).toContain('Rank 1 is left over from start 2 of a run that was started again (start 3)');
    expect(errors[1]).toMatchObject({ code: 'GRPO_RENDEZVOUS_OTHER_RUN', exitCode: 2 });
    expect(errors[1]!.message).toBe('Rank 1 belongs to the run s, but the run r has this port');
    const planes = await Promise.all([first, join(place(1, 2, port, { generation: 3 }))]);
    await Promise.all(planes.map((plane) => plane.leave()));
  });

  it('of a later start waits until the earlier one has given up its port', async () => {
    const port = await freePort();
    const [old] = await Promise.all([join(place(0, 1, port))]);
    const next = [join(place(0, 2, port, { generation: 1 })), join(place(1, 2, port, { generation: 1 }))];
    await new Promise((resolve) => setTimeout(resolve, 400));
    await old.close();
    await Promise.all((await Promise.all(next)).map((plane) => plane.leave()));
  });

  it('a port in use is an error that names it', async () => {
    const blocker = createServer().listen(0, '127.0.0.1');
    await once(blocker, 'listening');
    const { port } = blocker.address() as AddressInfo;
    const errors = await errorsOf([
      join(place(0, 2, port), run, { joinTimeout: 1 }),
      join(place(1, 2, port), run, { joinTimeout: 1 }),
    ]);
    blocker.close();
    expect(errors[0]).toMatchObject({ code: 'GRPO_RENDEZVOUS_PORT_IN_USE', exitCode: 2 });
    expect(errors[0]!.message).toMatch(new RegExp(`Port ${port} of 127\\.0\\.0\\.1 is in use`));
    expect(errors[1]).toMatchObject({ code: 'GRPO_RENDEZVOUS_TIMEOUT', exitCode: 75 });
    expect(errors[1]!.message).toContain(`127.0.0.1:${port}`);
  });

  it('something else at the port is called so', async () => {
    const web = createServer((socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')).listen(0, '127.0.0.1');
    await once(web, 'listening');
    const { port } = web.address() as AddressInfo;
    const [error] = await errorsOf([join(place(1, 2, port), run, { joinTimeout: 0.5 })]);
    web.close();
    expect(error!.message).toContain('what came is not a message of a control plane');
  });

  it('a stranger that sends no message, a broken or an endless one, does no harm', async () => {
    const port = await freePort();
    const first = join(place(0, 2, port));
    const strangers = ['', 'GET / HTTP/1.1\r\n\r\n', '{"type":"bye"}\n', 'x'.repeat(2 ** 18)];
    for (const text of strangers) {
      await new Promise((resolve) => {
        const socket = connect(port, '127.0.0.1', () => (text ? socket.write(text) : socket.end()));
        socket.on('error', () => {});
        socket.on('close', resolve);
        socket.resume();
      });
    }
    const planes = await Promise.all([first, join(place(1, 2, port))]);
    await Promise.all(planes.map((plane) => plane.leave()));
  });
});

describe('when a rank cannot go on, all stop with one error', () => {
  it('that names the rank, what it was doing, and what it said', async () => {
    const planes = await world(3);
    planes[2]!.report('backward of step 7');
    const failed = await planes[2]!.fail(new GrpoError('GRPO_REWARD', 'the reward is gone'));
    const errors = [failed, ...(await Promise.all(planes.slice(0, 2).map(abortOf)))];
    for (const error of errors) {
      expect(error).toBeInstanceOf(RankFailedError);
      expect(error.message).toBe(
        'Rank 2 failed, while it was doing: backward of step 7: the reward is gone (GRPO_REWARD)',
      );
      expect(error).toMatchObject({
        code: 'GRPO_RANK_FAILED',
        ranks: [2],
        activity: 'backward of step 7',
        exitCode: 1,
      });
    }
    expect(planes.map((plane) => plane.signal.aborted)).toEqual([true, true, true]);
    await expect(planes[0]!.store.get('x')).rejects.toBe(planes[0]!.failure);
    await expect(planes[1]!.leave()).rejects.toBe(planes[1]!.failure);
  });

  it('whose connection closes without a goodbye', async () => {
    const planes = await world(3);
    planes[1]!.report('all-reduce of 1,024 float32');
    const pending = planes[0]!.store.get('never');
    const aborted = [abortOf(planes[0]!), abortOf(planes[2]!)];
    await new Promise((resolve) => setTimeout(resolve, 100));
    await planes[1]!.close();
    for (const error of await Promise.all(aborted)) {
      expect(error).toMatchObject({ code: 'GRPO_RANK_DIED', ranks: [1], exitCode: 75 });
      expect(error.message).toMatch(/^Rank 1 \(127.*\) died: .*, while it was doing: all-reduce of 1,024 float32$/);
    }
    await expect(pending).rejects.toBe(planes[0]!.failure);
  });

  it('rank 0 too', async () => {
    const planes = await world(2);
    planes[0]!.report('checkpoint of step 3');
    const aborted = abortOf(planes[1]!);
    await new Promise((resolve) => setTimeout(resolve, 600));
    await planes[0]!.close();
    expect(await aborted).toMatchObject({ code: 'GRPO_RANK_DIED', ranks: [0], activity: 'checkpoint of step 3' });
  });

  it('the error of a collective gives way to the death that caused it', async () => {
    const planes = await world(3);
    const echo = planes[0]!.fail(new GrpoError('GRPO_COLLECTIVE', 'peer closed'), { secondary: true });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await planes[2]!.close();
    expect(await echo).toMatchObject({ code: 'GRPO_RANK_DIED', ranks: [2] });
    expect(await abortOf(planes[1]!)).toMatchObject({ code: 'GRPO_RANK_DIED', ranks: [2] });
  });

  it('the error of a collective stands when nobody died', async () => {
    const planes = await world(2);
    const late = { reason: 'timeout', rank: 1, worldSize: 2, peer: 0, collective: 'allReduce', sequence: 3 } as const;
    const error = await planes[1]!.fail(new CollectiveError({ ...late, size: '8 f32' }, 'timed out'), {
      secondary: true,
    });
    expect(error).toMatchObject({ code: 'GRPO_RANK_FAILED', ranks: [1], exitCode: 75 });
  });

  it('a goodbye does not hide that another rank dies afterwards', async () => {
    const planes = await world(2);
    const leaving = planes[0]!.leave();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await planes[1]!.close();
    await expect(leaving).rejects.toMatchObject({ code: 'GRPO_RANK_DIED', ranks: [1] });
  });
});

it('limits that cannot work are refused', async () => {
  await expect(join(place(0, 1, 1), run, { heartbeat: 2, hungAfter: 3 })).rejects.toMatchObject({
    code: 'GRPO_INVALID_ARGUMENT',
  });
  await expect(join(place(0, 1, 1), run, { joinTimeout: 0 })).rejects.toThrow(/joinTimeout/);
});
