import { basename } from 'node:path';
import { summaryFile } from '../eval/eval-folder.js';
import type { PageContext } from '../eval/report/pages.js';
import { type EvalReport, renderEvalReport } from '../eval/report/report.js';
import type { Estimate } from '../eval/statistics.js';
import { nodeFileSystem } from '../platform/node.js';
import { reportFile } from '../tracking/report/report.js';
import type { AnswerFlags, EvalSession } from './eval-answers.js';

interface Results {
  benchmark: string;
  summary: object;
  page(context: PageContext): EvalReport;
  /** What the terminal shows: a heading, then a row of estimates each. */
  headings: readonly string[];
  table: readonly (readonly [name: string, ...estimates: Estimate[]])[];
  /** Further lines for the terminal. */
  lines: readonly string[];
}

/** Writes `summary.json` and `report.html` and prints the result. */
export async function writeResults(flags: AnswerFlags, session: EvalSession, results: Results): Promise<void> {
  const { folder, notes, rows } = session;
  const source = flags.model ?? basename(flags.responses!);
  const run = await nodeFileSystem.readText(folder.file('run.json'));
  const tokens = [...rows.values()].reduce((sum, row) => sum + (row.tokens ?? 0), 0);
  await folder.writeJson(summaryFile, { benchmark: results.benchmark, source, ...results.summary, tokens, notes });
  const title = `${results.benchmark}: ${basename(source)}`;
  const page = await renderEvalReport(results.page({ title, notes, configuration: run, rows }));
  await nodeFileSystem.writeAtomic(folder.file(reportFile), page);
  await session.progress.finish();
  const lines = [
    line('', results.headings),
    ...results.table.map(([name, ...estimates]) => line(name, estimates.map(show))),
    ...results.lines,
    ...notes,
    '',
    `Summary: ${folder.file(summaryFile)}`,
    `Report:  ${folder.file(reportFile)}`,
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
}

function line(name: string, cells: readonly string[]): string {
  return `${name.padEnd(16)}${cells.map((cell) => cell.padEnd(26)).join('')}`.trimEnd();
}

function show({ value, low, high }: Estimate): string {
  const percent = (share: number) => (100 * share).toFixed(1);
  return `${percent(value)} %  (${percent(low)} – ${percent(high)})`;
}
