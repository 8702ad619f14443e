import type { Identity } from './control-messages.js';
import type { DistributedFailure } from './errors.js';
import { exitCodes } from './exit-codes.js';

interface Refusal {
  failure: DistributedFailure;
  retry: boolean;
}

/** Why a process does not belong to this run at all; null: it does. The run goes on without it. */
export function checkJoin(run: Identity, joining: Identity): Refusal | null {
  const refuse = (code: string, message: string, exitCode: number, retry = false): Refusal => ({
    failure: { code: `GRPO_RENDEZVOUS_${code}`, message, ranks: [joining.rank], activity: null, exitCode },
    retry,
  });
  const who = `Rank ${joining.rank}`;
  if (joining.runId !== run.runId) {
    const message = `${who} belongs to the run ${shown(joining.runId)}, but the run ${shown(run.runId)} has this port`;
    return refuse('OTHER_RUN', message, exitCodes.config);
  }
  if (joining.generation < run.generation) {
    const message = `${who} is left over from start ${joining.generation} of a run that was started again (start ${run.generation})`;
    return refuse('STALE', message, exitCodes.failed);
  }
  if (joining.generation > run.generation) {
    const message = `${who} is of start ${joining.generation} of the run, but start ${run.generation} still has this port`;
    return refuse('STALE', message, exitCodes.retryable, true);
  }
  return null;
}

/** In what a process of the run differs from rank 0; with such differences nobody can go on. */
export function mismatches(first: Identity, other: Identity): string[] {
  const problems: string[] = [];
  const differ = (what: string, theirs: unknown, ours: unknown, more = '') =>
    problems.push(`Rank ${other.rank} has ${what} ${theirs}, but rank 0 has ${ours}${more}`);
  if (other.worldSize !== first.worldSize) differ('a world size of', other.worldSize, first.worldSize);
  else if (!(Number.isSafeInteger(other.rank) && other.rank >= 0 && other.rank < first.worldSize)) {
    problems.push(`Rank ${other.rank} is not below the world size ${first.worldSize}`);
  }
  if (other.version !== first.version) differ('version', other.version, first.version);
  if (other.configHash !== first.configHash) {
    differ('a configuration with hash', other.configHash, first.configHash, differences(first.config, other.config));
  }
  return problems;
}

function differences(first: Identity['config'], other: Identity['config']): string {
  const names = [...new Set([...Object.keys(first), ...Object.keys(other)])].sort();
  const found = names
    .filter((name) => first[name] !== other[name])
    .map((name) => `${name}: ${other[name] ?? 'absent'} against ${first[name] ?? 'absent'}`);
  return found.length > 0 ? ` (${found.slice(0, 8).join('; ')}${found.length > 8 ? '; ...' : ''})` : '';
}

function shown(runId: string): string {
  return runId === '' ? 'without a name' : runId;
}
