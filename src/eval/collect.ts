import { GrpoError } from '../errors.js';
import { HttpError } from '../http/json-client.js';
import type { RecordLog } from './record-log.js';

export interface Identified {
  id: string;
}

export interface CollectOptions<Item, Row> {
  batchSize: number;
  concurrency: number;
  /** The results of some items, in their order. `first` is the position of the first of them among all items. */
  work(batch: readonly Item[], first: number, signal: AbortSignal): Promise<Row[]>;
  /** Called whenever results have been written. */
  progress?(done: number, total: number, rows: readonly Row[]): void;
  signal: AbortSignal;
}

export interface Collected {
  /** Items that an endpoint gave nothing for. */
  failures: { id: string; message: string }[];
  interrupted: boolean;
}

/**
 * Does the work that the log does not have yet, several batches at a time, and writes each result as it comes. Batches
 * begin at multiples of `batchSize`, so that a continued run asks as the first one did. An item that an endpoint
 * fails on is a failure of the result; an error that no item could escape, and many failures in a row, end it all.
 */
export async function collect<Item extends Identified, Row extends Identified>(
  items: readonly Item[],
  log: RecordLog<Row>,
  { batchSize, concurrency, work, progress, signal }: CollectOptions<Item, Row>,
): Promise<Collected> {
  const failures: Collected['failures'] = [];
  const stop = new AbortController();
  const both = AbortSignal.any([signal, stop.signal]);
  const mostInARow = Math.max(10, concurrency);
  let inARow = 0;
  let next = 0;
  let done = items.filter(({ id }) => log.rows.has(id)).length;

  async function runBatch(first: number): Promise<void> {
    const batch = items.slice(first, first + batchSize);
    if (batch.every(({ id }) => log.rows.has(id))) return;
    try {
      const rows = (await work(batch, first, both)).filter(({ id }) => !log.rows.has(id));
      await log.append(rows);
      inARow = 0;
      done += rows.length;
      progress?.(done, items.length, rows);
    } catch (error) {
      if (!(error instanceof HttpError) || meansAll(error)) throw error;
      failures.push(...batch.map(({ id }) => ({ id, message: error.message })));
      if (++inARow >= mostInARow) {
        throw new GrpoError('GRPO_HTTP', `${inARow} failures in a row, the last: ${error.message}`);
      }
    }
  }

  async function worker(): Promise<void> {
    while (next < items.length && !both.aborted) {
      const first = next;
      next += batchSize;
      await runBatch(first);
    }
  }

  const workers = Array.from({ length: concurrency }, () =>
    worker().catch((error) => {
      // The first error counts; what the others say is that they were stopped.
      if (!both.aborted) stop.abort(error);
    }),
  );
  await Promise.all(workers);
  if (signal.aborted) return { failures, interrupted: true };
  if (stop.signal.aborted) throw stop.signal.reason;
  return { failures, interrupted: false };
}

/** The key, the address or the model's name is wrong: no other request can do better. */
function meansAll({ status }: HttpError): boolean {
  return status !== null && [401, 403, 404, 405].includes(status);
}
