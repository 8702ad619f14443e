import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { glooLibraryPaths, loadAddon } from '../../src/backend/loader.js';
import { type RankEnded, type RankOptions, runRanks } from './ranks.js';

// Without libgloo-dev the addon is built without collectives on the CPU.
const hasGloo = glooLibraryPaths(loadAddon().path).some((path) => existsSync(path));

/** What rank `rank` reported first. */
function first(ended: RankEnded[], rank: number): Record<string, unknown> {
  return ended[rank]!.reports[0] as Record<string, unknown>;
}

/** Sends `go` to rank 0, which waits for it, when all the others have reported as often as `times`. */
function releaseRankZero(worldSize: number, times = 1): RankOptions['onReport'] {
  let reports = 0;
  return (_rank, _report, children) => {
    if (++reports === (worldSize - 1) * times) setTimeout(() => children[0]!.send('go'), 300);
  };
}

const failure = { name: 'CollectiveError', code: 'GRPO_COLLECTIVE' };

describe.skipIf(!hasGloo)('every collective gives the computed values', () => {
  test.each([1, 2, 4])(
    'on %i ranks',
    async (worldSize) => {
      const small = [0, 1, 5, 1000];
      const cases = [
        // The large one has more than one piece of a part on every rank.
        { dtype: 'f32', counts: [...small, 1_200_000] },
        { dtype: 'bf16', counts: small },
        { dtype: 'f16', counts: small },
        { dtype: 'i32', counts: small },
      ];
      const ended = await runRanks('everyCollective', worldSize, { argument: { cases } });
      for (const rank of ended) {
        expect(rank).toMatchObject({ code: 0, stderr: '' });
        expect(rank.reports).toEqual([{ checked: 153, liveTensors: 0, collectives: 154, sent: worldSize > 1 }]);
      }
    },
    60_000,
  );
});

describe.skipIf(!hasGloo)('collectives', () => {
  test('need no wait, and hold late ranks, early disposal and values of any length', async () => {
    const ended = await runRanks('ordinaryUse', 3);
    const gathered = [0, 1, 2].map((rank) => ({ rank, text: 'ä'.repeat(rank * 50), none: null }));
    for (const rank of ended) {
      expect(rank).toMatchObject({ code: 0, stderr: '', reports: [{ gathered, liveTensors: 0, failure: null }] });
    }
  });

  test('bring the weights of a trainer to servers', async () => {
    // More than one piece.
    for (const rank of await runRanks('weights', 3, { argument: { count: 2 ** 22 + 5 } })) {
      expect(rank).toMatchObject({ code: 0, stderr: '', reports: [{ liveTensors: 0 }] });
    }
  });

  test('give the bits of the sum in rank order, however a tensor is cut', async () => {
    const ended = await runRanks('bits', 4);
    for (const rank of ended) expect(rank.reports).toEqual([{ whole: true, pieces: true, scattered: true }]);
  });

  test('exchange gradients in buckets while backward runs, with the bits of one exchange', async () => {
    const ended = await runRanks('buckets', 2);
    for (const rank of ended) {
      expect(rank).toMatchObject({ code: 0, stderr: '' });
      expect(rank.reports).toEqual([
        { allReduce: true, shards: true, early: expect.any(Number), shardsEarly: expect.any(Number) },
      ]);
      expect(first(ended, 0).early).toBeGreaterThan(3);
      expect(first(ended, 0).shardsEarly).toBeGreaterThan(3);
    }
  });
});

describe.skipIf(!hasGloo)('collectives', () => {
  test('go on through signals, and when a rank was stopped for a while', async () => {
    const ended = await runRanks('signals', 2, {
      onReport: (rank, report, children) => {
        if (rank !== 1 || report !== 'running') return;
        const signals = ['SIGUSR2', 'SIGSTOP', 'SIGCONT', 'SIGUSR2', 'SIGSTOP', 'SIGCONT', 'SIGUSR2'] as const;
        for (const [i, signal] of signals.entries()) setTimeout(() => children[1]!.kill(signal), 50 * i);
      },
    });
    expect(ended[0]).toMatchObject({ code: 0, stderr: '' });
    expect(ended[1]).toMatchObject({ code: 0, stderr: '', reports: ['running', { signalled: true }] });
  });
});

describe.skipIf(!hasGloo)('ranks that call different things get an error that says what', () => {
  test.each([
    ['sizes', { kind: 'allReduce' }, { kind: 'allReduce', count: 11 }, 'allReduce 1 of 11 f32 (sum)'],
    ['dtypes', { kind: 'allReduce' }, { kind: 'allReduce', dtype: 'i32' }, 'allReduce 1 of 10 i32 (sum)'],
    ['operations', { kind: 'allReduce' }, { kind: 'allReduce', op: 'max' }, 'allReduce 1 of 10 f32 (max)'],
    ['roots', { kind: 'broadcast' }, { kind: 'broadcast', root: 1 }, 'broadcast 1 of 10 f32 from rank 1'],
    ['collectives', { kind: 'allGather' }, { kind: 'reduceScatter' }, 'reduceScatter 1 of 10 f32'],
    ['ends', { kind: 'allReduce' }, { kind: 'close' }, 'close'],
  ])('%s', async (_what, others, one, text) => {
    const ended = await runRanks('mismatch', 2, { argument: [others, one] });
    const expected = { ...failure, reason: 'mismatch', sequence: 1, collective: others.kind };
    expect(first(ended, 0)).toMatchObject({ ...expected, peer: 1 });
    expect(first(ended, 0).message).toContain(`rank 1 called ${text}`);
    expect(first(ended, 1)).toMatchObject({ ...failure, reason: 'mismatch', peer: 0 });
    for (const rank of ended) expect(rank).toMatchObject({ code: 0, stderr: '' });
  });
});

describe.skipIf(!hasGloo)('a rank that is lost in the middle of a collective', () => {
  const afterwards = (report: Record<string, unknown>) => {
    const { first, second, failed, closed } = report as Record<string, Record<string, unknown>>;
    // The group is dead: the same error, at once.
    expect(second).toMatchObject({ message: first!.message });
    expect(second!.seconds).toBeLessThan(1);
    expect({ failed, closed }).toEqual({ failed: true, closed: { ok: true } });
    return first!;
  };

  test('is noticed at once when it died', async () => {
    const ended = await runRanks('lostPeer', 3, { argument: { signal: 'SIGKILL', timeoutSeconds: 50 } });
    expect(ended[1]!.signal).toBe('SIGKILL');
    for (const rank of [0, 2]) {
      expect(ended[rank]).toMatchObject({ code: 0, stderr: '' });
      const lost = afterwards(first(ended, rank));
      expect(lost).toMatchObject({ ...failure, reason: 'peer', collective: 'allReduce', size: '1000000 f32' });
      expect(lost.seconds).toBeLessThan(10);
    }
  }, 60_000);

  test('is noticed at once though a child of it lives on', async () => {
    let child = 0;
    const ended = await runRanks('childOutlives', 2, {
      onReport: (rank, report) => {
        if (rank === 1) child = report as number;
      },
    });
    expect(ended[1]!.signal).toBe('SIGKILL');
    expect(first(ended, 0)).toMatchObject({ ...failure, reason: 'peer', peer: 1 });
    expect(first(ended, 0).seconds).toBeLessThan(10);
    process.kill(child, 'SIGKILL');
  });

  test('is noticed after the limit when it hangs', async () => {
    let reports = 0;
    const ended = await runRanks('lostPeer', 2, {
      argument: { signal: 'SIGSTOP', timeoutSeconds: 2 },
      onReport: (_rank, _report, children) => {
        if (++reports === 1) children[1]!.kill('SIGKILL');
      },
    });
    expect(ended[0]).toMatchObject({ code: 0, stderr: '' });
    const lost = afterwards(first(ended, 0));
    expect(lost).toMatchObject({ ...failure, reason: 'timeout', peer: 1, collective: 'allReduce' });
    expect(lost.message).toContain('rank 1 did not answer within 2 seconds');
    expect(lost.seconds).toBeGreaterThan(1);
  }, 60_000);

  test('is noticed when it dies before it has connected', async () => {
    const ended = await runRanks('diesBeforeConnecting', 2);
    expect(first(ended, 0)).toMatchObject({ ...failure, peer: 1 });
    expect(first(ended, 0).seconds).toBeLessThan(20);
  });

  test('is noticed when its tensor could not be computed', async () => {
    const ended = await runRanks('failedInput', 3);
    expect(first(ended, 1)).toMatchObject({ ...failure, reason: 'input', sequence: 1 });
    expect(first(ended, 1).message).toContain('No memory on cpu');
    for (const rank of [0, 2]) expect(first(ended, rank)).toMatchObject({ ...failure, reason: 'peer', sequence: 1 });
  });

  test('does not keep the others when one is told to abort', async () => {
    const ended = await runRanks('abort', 3, { onReport: releaseRankZero(3) });
    expect(first(ended, 1)).toMatchObject({ first: { ...failure, reason: 'aborted' }, live: 'aborted' });
    expect((first(ended, 1).first as { message: string }).message).toContain('rank 0 stopped answering');
    // Rank 2 waits for rank 0, and hears of rank 1 by its closed connection.
    expect(first(ended, 2)).toMatchObject({ first: { ...failure, reason: 'peer', peer: 1 }, live: 'peer' });
    for (const rank of ended) expect(rank.milliseconds).toBeLessThan(15_000);
  });
});

describe.skipIf(!hasGloo)('a process whose collective waits for another rank', () => {
  const run = (how: string, options: RankOptions = {}, times = 1) =>
    runRanks('exitInFlight', 2, { argument: { how }, onReport: releaseRankZero(2, times), ...options });

  test('can call process.exit()', async () => {
    expect((await run('exit'))[1]).toMatchObject({ code: 5, stderr: '', reports: ['waiting'] });
  });

  test('reports an uncaught exception', async () => {
    expect((await run('throw'))[1]).toMatchObject({ code: 1, stderr: expect.stringContaining('on purpose') });
  });

  test('ends on SIGINT', async () => {
    const ended = await run('stay', {
      onReport: (_rank, _report, children) => {
        children[1]!.kill('SIGINT');
        setTimeout(() => children[0]!.send('go'), 300);
      },
    });
    expect(ended[1]).toMatchObject({ code: null, signal: 'SIGINT', stderr: '' });
  });

  test('can close its device: what waits rejects, and the process ends', async () => {
    expect((await run('close device', {}, 2))[1]).toMatchObject({
      code: 0,
      stderr: '',
      reports: ['waiting', 'closed'],
    });
  });

  test('can terminate a worker that holds the group', async () => {
    expect((await run('worker'))[1]).toMatchObject({ code: 0, stderr: '', reports: ['terminated'] });
  });
});
