import type { StepReport } from 'grpo-native/browser';

/** What the worker says. It makes an update whenever the page sends `'update'`, and one `'ready'` before all others. */
export type WorkerMessage =
  | { type: 'ready'; adapter: string; weights: number }
  | { type: 'update'; report: Pick<StepReport, 'step' | 'metrics' | 'completions'> }
  | { type: 'finished' }
  | { type: 'failed'; message: string; unavailable: boolean };
