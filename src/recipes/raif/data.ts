import { parseJsonl } from '../../data/jsonl.js';
import type { PromptRecord } from '../../data/prompts.js';
import type { DemonstrationRecord } from '../../data/records.js';
import { FileFormatError } from '../../errors.js';
import { validateInstructions } from '../../rewards/ifeval/index.js';
import { answersMatch } from '../../rewards/maths.js';
import { openThinking, readPrompt, type TemplateFamily } from './templates.js';

/** What a row asks for, and so how its replies are scored. */
export type RaifKind = 'maths' | 'ifeval' | 'complex';

/** A row of RAIF's data, checked. */
export interface RaifRecord extends PromptRecord {
  prompt: string;
  /** The prompt is rendered, special tokens included. */
  addSpecialTokens: false;
  kind: RaifKind;
  task: string;
  template: TemplateFamily;
  /** Instructions are answered with and without thinking, maths with thinking only. */
  contrast: boolean;
  /** The format is not scored (`…woFormat`). */
  freeForm: boolean;
  /** Of maths: the reference. */
  answer?: string;
  /** Of ifeval. */
  instruction_id_list?: string[];
  kwargs?: object[];
  /** Of complex: yes/no questions for a judge. */
  scoring_questions?: string[];
  /** How much of it the reference model met without thinking. */
  reference_met?: number;
  /** `file:line`, for reports. */
  origin: string;
}

export interface RaifDataOptions {
  /** Model whose counts in the data are the reference. Default `qwen2.5-7B-Instruct`. */
  referenceModel?: string;
  /** Leave rows out that cannot be used, instead of throwing for the first. Default false. */
  skipInvalid?: boolean;
}

export interface RaifData<Row> {
  records: Row[];
  /** With `skipInvalid`: why each row that was left out cannot be used, with its file and line. */
  invalid: string[];
}

/** The prompts of a text in RAIF's format: `input`, `target` and `task` in each line. */
export function parseRaifPrompts(text: string, file: string, options: RaifDataOptions = {}): RaifData<RaifRecord> {
  return parseRows(text, file, options, (row, origin) => readRow(row, origin, options));
}

/** Expert replies in RAIF's format: `question`, a rendered prompt, and `answer`, what follows it. */
export function parseRaifDemonstrations(
  text: string,
  file: string,
  options: RaifDataOptions = {},
): RaifData<DemonstrationRecord> {
  return parseRows(text, file, options, (row, origin) => {
    const prompt = requireText(row, 'question');
    const completion = requireText(row, 'answer').replace(/\n+$/, '');
    return { prompt, completion, addSpecialTokens: false, origin };
  });
}

function parseRows<Row>(
  text: string,
  file: string,
  { skipInvalid = false }: RaifDataOptions,
  read: (row: Record<string, unknown>, origin: string) => Row,
): RaifData<Row> {
  const invalid: string[] = [];
  const records = parseJsonl(text, file).flatMap(({ line, value }) => {
    try {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('not an object');
      return [read(value as Record<string, unknown>, `${file}:${line}`)];
    } catch (cause) {
      const error = new FileFormatError(file, (cause as Error).message, line, { cause });
      if (!skipInvalid) throw error;
      invalid.push(error.message);
      return [];
    }
  });
  if (records.length === 0) throw new FileFormatError(file, 'no rows that can be used');
  return { records, invalid };
}

function readRow(row: Record<string, unknown>, origin: string, options: RaifDataOptions): RaifRecord {
  const input = requireText(row, 'input');
  const target = requireText(row, 'target');
  const { task = 'default' } = row;
  if (typeof task !== 'string') throw new Error('task must be a text');
  const kind = kindOf(task);
  const prompt = openThinking(input);
  const read = readPrompt(prompt);
  if (!read) throw new Error(`input ends like none of the five templates: ${JSON.stringify(input.slice(-60))}`);
  const common = {
    prompt,
    addSpecialTokens: false as const,
    kind,
    task,
    template: read.family,
    contrast: kind !== 'maths',
    freeForm: task.endsWith('woFormat'),
    origin,
  };
  if (kind === 'maths') return { ...common, ...readMaths(target) };
  const label = parseLabel(target);
  return { ...common, ...(kind === 'ifeval' ? readIfeval(label, options) : readComplex(label, options)) };
}

function kindOf(task: string): RaifKind {
  if (task.startsWith('ifeval')) return 'ifeval';
  if (task.startsWith('complex')) return 'complex';
  if (task === 'default') return 'maths';
  throw new Error(`task must be default, or begin with ifeval or complex; it is ${JSON.stringify(task)}`);
}

function readMaths(target: string): Pick<RaifRecord, 'answer'> {
  if (!answersMatch(`\\boxed{${target}}`, target)) {
    throw new Error(
      `target is no answer that a reply could match, not even by repeating it: ${JSON.stringify(target)}`,
    );
  }
  return { answer: target };
}

function readIfeval(label: Record<string, unknown>, options: RaifDataOptions) {
  const { instruction_id_list, kwargs } = label as { instruction_id_list: string[]; kwargs: object[] };
  if (validateInstructions(instruction_id_list, kwargs).length === 0) throw new Error('target has no instructions');
  const reference_met = readCount(label, 'follow_score', instruction_id_list.length, options);
  return { instruction_id_list, kwargs, reference_met };
}

function readComplex(label: Record<string, unknown>, options: RaifDataOptions) {
  const questions = label.scoring_questions;
  const usable =
    Array.isArray(questions) && questions.length > 0 && questions.every((q) => typeof q === 'string' && q.trim());
  if (!usable) throw new Error('target needs scoring_questions: a list of questions, none of them blank');
  const reference_met = readCount(label, 'scoring_sum', questions.length, options);
  return { scoring_questions: questions as string[], reference_met };
}

/** How much the reference model met; 0 where the data does not say. */
function readCount(
  label: Record<string, unknown>,
  name: string,
  most: number,
  { referenceModel = 'qwen2.5-7B-Instruct' }: RaifDataOptions,
): number {
  const key = `${name}_${referenceModel}`;
  const value = label[key] ?? 0;
  if (typeof value === 'number' && value >= 0 && value <= most) return value;
  throw new Error(`${key} must be a number from 0 to ${most}, got ${JSON.stringify(value)}`);
}

function parseLabel(target: string): Record<string, unknown> {
  let label: unknown;
  try {
    label = JSON.parse(target);
  } catch (cause) {
    throw new Error(`target is not JSON: ${(cause as Error).message}`, { cause });
  }
  if (typeof label !== 'object' || label === null || Array.isArray(label))
    throw new Error('target must be a JSON object');
  return label as Record<string, unknown>;
}

function requireText(row: Record<string, unknown>, field: string): string {
  const value = row[field];
  if (typeof value === 'string' && value.trim() !== '') return value;
  throw new Error(`${field} must be a text that is not blank, got ${JSON.stringify(value)?.slice(0, 60)}`);
}
