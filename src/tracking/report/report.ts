import { readFile, rename, writeFile } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { completionsFile, metricsFile } from '../jsonl.js';
import { readJsonLines } from '../line-file.js';
import type { TrackedCompletion, Tracker } from '../tracker.js';
import { CompletionSample } from './completion-sample.js';
import { renderPage } from './render-page.js';

export const reportFile = 'report.html';

const maxPoints = 2000;

/** What the page is drawn from; `page.js` reads it. */
interface ReportData {
  title: string;
  subtitle: string;
  config: string;
  metrics: { steps: number[]; columns: Record<string, (number | null)[]>; note: string | null };
  completions: { rows: TrackedCompletion[]; note: string | null };
}

/** Writes `report.html` at the end of a run, from the files of the run folder. */
export class ReportTracker implements Tracker {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  metrics(): void {}

  async finish(): Promise<void> {
    await writeReport(this.#folder);
  }
}

/**
 * Writes one self-contained page about a run: curves of all metrics and a table of completions. Reads what the run
 * folder has, so that it also serves a run that was killed. Returns the path of the page.
 */
export async function writeReport(folder: string): Promise<string> {
  const data: ReportData = {
    title: basename(resolve(folder)),
    subtitle: '',
    config: await readFile(join(folder, 'config.yaml'), 'utf8').catch(emptyWhenAbsent),
    metrics: await readMetrics(join(folder, metricsFile)),
    completions: await readCompletions(join(folder, completionsFile)),
  };
  data.subtitle = `${data.metrics.steps.length === 0 ? 'No steps yet' : `Up to step ${data.metrics.steps.at(-1)}`}, written ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`;
  const path = join(folder, reportFile);
  await writeFile(`${path}.tmp`, await renderPage(pageParts, data.title, data));
  await rename(`${path}.tmp`, path);
  return path;
}

async function readMetrics(path: string): Promise<ReportData['metrics']> {
  const rows = new Map<number, Map<string, number>>();
  for await (const { step, time: _, ...values } of existing(path)) {
    if (typeof step !== 'number') continue;
    const row = rows.get(step) ?? new Map<string, number>();
    for (const [name, value] of Object.entries(values)) if (typeof value === 'number') row.set(name, value);
    rows.set(step, row);
  }
  const all = [...rows.keys()].sort((a, b) => a - b);
  const stride = Math.ceil(all.length / maxPoints);
  const hasEvaluation = (step: number) => [...rows.get(step)!.keys()].some((name) => name.startsWith('eval'));
  const steps = all.filter((step, i) => i % stride === 0 || i === all.length - 1 || hasEvaluation(step));
  const names = [...new Set(steps.flatMap((step) => [...rows.get(step)!.keys()]))];
  const column = (name: string) => steps.map((step) => shorten(rows.get(step)!.get(name)));
  const note = stride > 1 ? `The curves show every ${stride}th of ${all.length} steps, and every evaluation.` : null;
  return { steps, columns: Object.fromEntries(names.map((name) => [name, column(name)])), note };
}

async function readCompletions(path: string): Promise<ReportData['completions']> {
  const sample = new CompletionSample();
  for await (const row of existing(path)) sample.add(row as unknown as TrackedCompletion);
  return sample.result();
}

async function* existing(path: string): AsyncGenerator<Record<string, unknown>> {
  try {
    yield* readJsonLines(path);
  } catch (error) {
    emptyWhenAbsent(error);
  }
}

function emptyWhenAbsent(error: unknown): string {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
  throw error;
}

/** Six digits are more than a pixel of a curve. */
function shorten(value: number | undefined): number | null {
  return value === undefined || !Number.isFinite(value) ? null : Number(value.toPrecision(6));
}

const part = (name: string) => new URL(name, import.meta.url);
const pageParts = {
  page: part('page.html'),
  styles: [part('page.css')],
  scripts: ['dom.js', 'charts.js', 'completions.js', 'page.js'].map(part),
};
