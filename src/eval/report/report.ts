import { renderPage } from '../../tracking/report/render-page.js';
import type { Estimate } from '../statistics.js';

/** A verdict by mode; null: there is none. */
export type ReportVerdicts = Readonly<Record<string, boolean | null>>;

export interface ReportAnswer {
  id: string;
  prompt: string;
  response: string;
  reasoning: string | null;
  /** Why the outcome is what it is, where the checks do not say. */
  note: string | null;
  outcome: 'pass' | 'fail' | 'undecided' | 'missing';
  /** What was checked, each with its verdicts. */
  checks: { name: string; detail: string | null; verdicts: ReportVerdicts }[];
}

export interface ReportRow {
  name: string;
  level: 'plain' | 'group' | 'member';
  estimates: Estimate[];
}

export interface EvalReport {
  title: string;
  subtitle: string;
  tiles: { name: string; estimate: Estimate | null; text: string | null }[];
  notes: string[];
  /** Accuracy by kind: each row has an estimate a column, and may be one of the group above it. */
  table: { heading: string; columns: string[]; rows: ReportRow[] } | null;
  /** What the answers' checks are, for the filter: `Instruction`, `Question`. */
  checkName: string;
  /** Offer a filter by the checks' names: they recur from answer to answer. */
  filterChecks: boolean;
  answers: ReportAnswer[];
  configuration: string;
}

const part = (name: string) => new URL(name, import.meta.url);
const shared = (name: string) => part(`../../tracking/report/${name}`);
const pageParts = {
  page: part('eval.html'),
  styles: [shared('page.css'), part('eval.css')],
  scripts: [shared('dom.js'), part('answers.js'), part('eval.js')],
};

/** One self-contained page about an evaluation. */
export function renderEvalReport(report: EvalReport): Promise<string> {
  return renderPage(pageParts, report.title, report);
}
