import type { IFEvalItem, IFEvalSummary, IFEvalVerdict } from '../ifeval.js';
import type { JudgedSummary, JudgedVerdict } from '../judged.js';
import type { MathsSummary, MathsVerdict } from '../maths.js';
import type { ResponseRow } from '../responses.js';
import type { Estimate } from '../statistics.js';
import type { EvalReport, ReportAnswer, ReportRow } from './report.js';

/** What every page tells beside its results. */
export interface PageContext {
  title: string;
  notes: readonly string[];
  configuration: string;
  rows: ReadonlyMap<string, ResponseRow>;
}

type Tile = EvalReport['tiles'][number];

const tile = (name: string, estimate: Estimate): Tile => ({ name, estimate, text: null });
const countTile = (name: string, count: number): Tile => ({ name, estimate: null, text: count.toLocaleString('en') });

export function ifevalPage(
  summary: IFEvalSummary,
  verdicts: readonly IFEvalVerdict[],
  context: PageContext,
): EvalReport {
  const { strict, loose } = summary;
  const groups = Object.keys(strict.byGroup).flatMap((group): ReportRow[] => [
    { name: group, level: 'group', estimates: [strict.byGroup[group]!, loose.byGroup[group]!] },
    ...Object.keys(strict.byInstruction)
      .filter((id) => id.startsWith(`${group}:`))
      .map((id): ReportRow => {
        const estimates = [strict.byInstruction[id]!, loose.byInstruction[id]!];
        return { name: id.slice(group.length + 1), level: 'member', estimates };
      }),
  ]);
  return {
    ...common(context, summary.intervals, `${summary.prompts} prompts, ${summary.instructions} instructions`),
    tiles: [
      tile('Prompts, strict', strict.promptLevel),
      tile('Prompts, loose', loose.promptLevel),
      tile('Instructions, strict', strict.instructionLevel),
      tile('Instructions, loose', loose.instructionLevel),
    ],
    table: {
      heading: 'Accuracy by instruction',
      columns: ['Strict', 'Loose'],
      rows: groups,
    },
    checkName: 'Instruction',
    filterChecks: true,
    answers: verdicts.map(({ item, missing, strict, loose }) => ({
      ...answerOf(item.id, item.prompt, context),
      outcome: missing ? 'missing' : strict.every(Boolean) ? 'pass' : 'fail',
      checks: item.instructionIds.map((name, i) => ({
        name,
        detail: parametersOf(item, i),
        verdicts: { strict: strict[i]!, loose: loose[i]! },
      })),
    })),
  };
}

export function mathsPage(summary: MathsSummary, verdicts: readonly MathsVerdict[], context: PageContext): EvalReport {
  return {
    ...common(context, summary.intervals, `${verdicts.length} questions`),
    tiles: [
      tile('Accuracy', summary.accuracy),
      countTile('Wrong', summary.wrong),
      countTile('Wrong: no answer found', summary.withoutAnswer),
      countTile('Undecided', summary.undecided),
    ],
    table: null,
    checkName: 'Answer',
    filterChecks: false,
    answers: verdicts.map(({ item, missing, answer, verdict }) => ({
      ...answerOf(item.id, item.question, context),
      note: `Answer: ${answer ?? 'none found'}. Reference: ${item.reference}`,
      outcome: missing ? 'missing' : ({ equal: 'pass', different: 'fail', undecided: 'undecided' } as const)[verdict],
      checks: [
        {
          name: answer ?? 'none',
          detail: null,
          verdicts: { equal: verdict === 'undecided' ? null : verdict === 'equal' },
        },
      ],
    })),
  };
}

export function judgedPage(
  summary: JudgedSummary,
  results: readonly JudgedVerdict[],
  context: PageContext,
): EvalReport {
  const categories = Object.entries(summary.byCategory);
  return {
    ...common(context, summary.intervals, `${summary.items} items, ${summary.questions} questions`),
    tiles: [
      tile('Questions met', summary.questionLevel),
      tile('Items met', summary.itemLevel),
      countTile('Questions without a verdict', summary.unanswered),
    ],
    table:
      categories.length === 0
        ? null
        : {
            heading: 'Questions met by category',
            columns: ['Questions met'],
            rows: categories.map(([name, estimate]) => ({ name, level: 'plain', estimates: [estimate] })),
          },
    checkName: 'Question',
    filterChecks: false,
    answers: results.map(({ item, missing, verdicts }) => ({
      ...answerOf(item.id, item.prompt, context),
      outcome: missing ? 'missing' : outcomeOf(verdicts),
      checks: item.questions.map(({ text, dependsOn }, i) => ({
        name: text,
        detail: dependsOn.length > 0 ? `(needs ${dependsOn.map((d) => `question ${d + 1}`).join(', ')})` : null,
        verdicts: { met: verdicts[i]! },
      })),
    })),
  };
}

function outcomeOf(verdicts: readonly (boolean | null)[]): ReportAnswer['outcome'] {
  if (verdicts.includes(false)) return 'fail';
  return verdicts.includes(null) ? 'undecided' : 'pass';
}

function common({ title, notes, configuration }: PageContext, intervals: Record<string, string>, size: string) {
  const subtitle = `${size}. ${Object.values(intervals).join('; ')}.`;
  return { title, subtitle, notes: [...notes], configuration };
}

function answerOf(id: string, prompt: string, { rows }: PageContext) {
  const row = rows.get(id);
  return { id, prompt, response: row?.response ?? '', reasoning: row?.reasoning ?? null, note: null };
}

function parametersOf({ kwargs }: IFEvalItem, index: number): string | null {
  const given = Object.entries(kwargs[index]!).filter(([, value]) => value !== null);
  return given.length === 0 ? null : given.map(([name, value]) => `${name}: ${JSON.stringify(value)}`).join(', ');
}
