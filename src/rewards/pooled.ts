import { GrpoError, InvalidArgumentError } from '../errors.js';
import { Limiter } from '../http/limiter.js';
import { type ModuleWorker, startWorker, WorkerCrash, type WorkerProgram } from '../platform/workers.js';
import type { Reward, RewardSample } from './reward.js';

export interface PooledRewardOptions extends WorkerProgram {
  /** Default: the name of the export. */
  name?: string;
  weight?: number;
  /** Workers. Default 2. */
  size?: number;
  /** Milliseconds that a call may take before its worker is killed. Default 10,000. */
  timeoutMs?: number;
  /** Milliseconds for the module to load. Default 30,000. */
  startTimeoutMs?: number;
  /**
   * Samples a call: those beside one that hangs are lost with it. Default 1. A reward that compares samples with each
   * other needs more, and does not belong here if it needs all of them.
   */
  samplesPerCall?: number;
  /** Hears of every call that gave no scores. */
  onProblem?: (problem: { reason: 'timeout' | 'crashed' | 'threw' | 'wrong-count'; message: string }) => void;
}

export interface PooledReward extends Reward {
  /** Ends the workers. They do not keep the process alive, so this is for programs that go on. */
  close(): Promise<void>;
}

/**
 * A reward in threads of its own: `export` of `module` is a reward or its function (with `args`: a function that returns
 * one, such as `mathsReward`). It neither blocks training nor hangs it: a worker that takes too long or dies is replaced,
 * and its samples cannot be scored. Throws when no sample of a batch could be, so that the reason is reported.
 */
export function pooledReward(options: PooledRewardOptions): PooledReward {
  const { name = options.export, weight, size = 2, timeoutMs = 10_000, startTimeoutMs = 30_000 } = options;
  const { samplesPerCall = 1, onProblem = () => {} } = options;
  for (const [key, value] of Object.entries({ module: options.module, export: options.export })) {
    if (typeof value !== 'string' || value === '') throw new InvalidArgumentError(key, 'a name', value);
  }
  for (const [key, value] of Object.entries({ timeoutMs, startTimeoutMs })) {
    if (!(value > 0 && value < 2 ** 31)) throw new InvalidArgumentError(key, 'a time above 0', value);
  }
  if (!Number.isSafeInteger(samplesPerCall) || samplesPerCall < 1) {
    throw new InvalidArgumentError('samplesPerCall', '1 or more', samplesPerCall);
  }
  const limiter = new Limiter(size);
  /** Workers that wait for a call, and those at work. */
  const idle: ModuleWorker[] = [];
  const busy = new Set<ModuleWorker>();

  const start = async (): Promise<ModuleWorker> => {
    const starting = startWorker(options);
    // One that comes too late is of no use any more.
    const discard = () => void starting.then((worker) => worker.terminate()).catch(() => {});
    return withLimit(starting, startTimeoutMs, 'the module did not load', discard);
  };

  const callOnce = async (samples: readonly RewardSample[]): Promise<(number | null)[]> => {
    // One may have died since its last call.
    while (idle.length > 0 && !idle.at(-1)!.alive) idle.pop();
    const worker = idle.pop() ?? (await start());
    busy.add(worker);
    let late = false;
    try {
      const scores = await withLimit(worker.call(samples), timeoutMs, 'no scores', () => {});
      if (!Array.isArray(scores) || scores.length !== samples.length) {
        const got = Array.isArray(scores) ? scores.length : 'no';
        throw new PoolError('wrong-count', `${got} scores for ${samples.length} completions`);
      }
      return scores;
    } catch (error) {
      late = error instanceof PoolError && error.reason === 'timeout';
      throw error;
    } finally {
      busy.delete(worker);
      if (late) await worker.terminate();
      else if (worker.alive) idle.push(worker);
    }
  };

  return {
    name,
    weight,
    // Each call has its own limit, which spares the other samples.
    timeoutMs: Number.POSITIVE_INFINITY,
    async score(batch) {
      const failures: Error[] = [];
      const calls = Array.from({ length: Math.ceil(batch.length / samplesPerCall) }, async (_, i) => {
        const samples = batch.slice(i * samplesPerCall, (i + 1) * samplesPerCall);
        try {
          return await limiter.run(() => callOnce(samples));
        } catch (error) {
          failures.push(error as Error);
          onProblem({ reason: reasonOf(error), message: (error as Error).message });
          return samples.map(() => Number.NaN);
        }
      });
      const scores = (await Promise.all(calls)).flat();
      if (failures.length === calls.length && calls.length > 0) {
        throw new GrpoError('GRPO_REWARD_POOL', `${name}: ${failures[0]!.message}`, { cause: failures[0] });
      }
      return scores;
    },
    async close() {
      await Promise.all([...idle.splice(0), ...busy].map((worker) => worker.terminate()));
    },
  };
}

class PoolError extends Error {
  constructor(
    readonly reason: 'timeout' | 'wrong-count',
    message: string,
  ) {
    super(message);
  }
}

function reasonOf(error: unknown) {
  if (error instanceof PoolError) return error.reason;
  return error instanceof WorkerCrash ? 'crashed' : 'threw';
}

async function withLimit<T>(work: Promise<T>, limitMs: number, what: string, onLimit: () => void): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new PoolError('timeout', `${what} after ${limitMs} ms`));
      onLimit();
    }, limitMs);
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    clearTimeout(timer);
  }
}
