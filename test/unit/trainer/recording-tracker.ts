import type { TrackedCompletion, Tracker } from '../../../src/tracking/tracker.js';

/** Keeps what it is told. */
export class RecordingTracker implements Tracker {
  readonly entries: { step: number; values: Record<string, number> }[] = [];
  readonly rows: TrackedCompletion[] = [];
  config: Record<string, unknown> | null = null;
  finished = 0;

  start(config: Record<string, unknown>): void {
    this.config = config;
  }

  metrics(step: number, values: Readonly<Record<string, number>>): void {
    this.entries.push({ step, values: { ...values } });
  }

  completions(rows: readonly TrackedCompletion[]): void {
    this.rows.push(...rows);
  }

  async finish(): Promise<void> {
    this.finished++;
  }
}
