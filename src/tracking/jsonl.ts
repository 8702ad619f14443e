import { join } from 'node:path';
import { AppendQueue } from './line-file.js';
import type { TrackedCompletion, Tracker } from './tracker.js';

export const metricsFile = 'metrics.jsonl';
export const completionsFile = 'completions.jsonl';

/** Appends every step's metrics to `metrics.jsonl` and every tracked completion to `completions.jsonl`, a line each. */
export class JsonlTracker implements Tracker {
  readonly #metrics: AppendQueue;
  readonly #completions: AppendQueue;

  constructor(folder: string, onError: (error: unknown) => void) {
    this.#metrics = new AppendQueue(join(folder, metricsFile), onError);
    this.#completions = new AppendQueue(join(folder, completionsFile), onError);
  }

  metrics(step: number, values: Readonly<Record<string, number>>): void {
    this.#metrics.append(jsonLine({ step, time: Date.now() / 1000, ...values }));
  }

  completions(rows: readonly TrackedCompletion[]): void {
    for (const row of rows) this.#completions.append(jsonLine(row));
  }

  async finish(): Promise<void> {
    await Promise.all([this.#metrics.flush(), this.#completions.flush()]);
  }
}

/** JSON has no NaN or infinity: `JSON.stringify` writes them as null, and so they come back. */
function jsonLine(record: object): Uint8Array {
  return Buffer.from(`${JSON.stringify(record)}\n`);
}
