import type { TrackedCompletion, Tracker } from './tracker.js';

/** One tracker in front of many. What a tracker throws is reported once a tracker and goes no further. */
export function combineTrackers(trackers: readonly Tracker[], onError: (error: unknown) => void): Tracker {
  const reported = new Set<Tracker>();
  const report = (tracker: Tracker, error: unknown) => {
    if (reported.has(tracker)) return;
    reported.add(tracker);
    onError(error);
  };
  const each = (call: (tracker: Tracker) => void) => {
    for (const tracker of trackers) {
      try {
        call(tracker);
      } catch (error) {
        report(tracker, error);
      }
    }
  };
  // One after another, so that a report made by the last finds what the others have written.
  const eachInTurn = async (call: (tracker: Tracker) => Promise<void> | void) => {
    for (const tracker of trackers) {
      try {
        await call(tracker);
      } catch (error) {
        report(tracker, error);
      }
    }
  };
  return {
    start: (config: Record<string, unknown>) => eachInTurn((tracker) => tracker.start?.(config)),
    metrics: (step: number, values: Readonly<Record<string, number>>) => each((t) => t.metrics(step, values)),
    completions: (rows: readonly TrackedCompletion[]) => each((tracker) => tracker.completions?.(rows)),
    finish: () => eachInTurn((tracker) => tracker.finish?.()),
  };
}
