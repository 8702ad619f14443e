import { expect, it } from 'vitest';
import { LaunchEnvironmentError, RankFailedError } from '../../../src/distributed/errors.js';
import { exitCodeOf, exitCodeOfProcess } from '../../../src/distributed/exit-codes.js';
import { CollectiveError, type CollectiveFailure, DeviceLostError, GrpoError } from '../../../src/errors.js';

const collective = (reason: CollectiveFailure['reason']) =>
  new CollectiveError(
    { reason, rank: 0, worldSize: 2, peer: 1, collective: 'allReduce', sequence: 1, size: '' },
    'it failed',
  );
const rankFailed = (exitCode: number) =>
  new RankFailedError({ code: 'GRPO_RANK_FAILED', message: '', ranks: [1], activity: null, exitCode });

it.each([
  ['a dead peer', collective('peer'), 75],
  ['a peer that does not answer', collective('timeout'), 75],
  ['ranks that call different collectives', collective('mismatch'), 1],
  ['a lost device', new DeviceLostError('gone'), 75],
  ['a wrong configuration', new GrpoError('GRPO_CONFIG', ''), 2],
  ['settings of a launcher', new LaunchEnvironmentError('torchrun', ['missing: RANK']), 2],
  ['another error of this package', new GrpoError('GRPO_INPUT', ''), 1],
  ['a mistake in a program', new TypeError(''), 1],
  ['what another rank could not go on with', rankFailed(2), 2],
])('%s has its exit code', (_, error, code) => {
  expect(exitCodeOf(error)).toBe(code);
});

it('a process that was killed may be started again, one that Ctrl-C ended not', () => {
  expect(exitCodeOfProcess(null, 'SIGKILL')).toBe(75);
  expect(exitCodeOfProcess(null, 'SIGSEGV')).toBe(75);
  expect(exitCodeOfProcess(null, 'SIGINT')).toBe(130);
  expect(exitCodeOfProcess(3, null)).toBe(3);
});
