import { z } from 'zod';
import { parseJsonl } from '../data/jsonl.js';
import { FileFormatError } from '../errors.js';
import { describeIntervals, type Estimate, groupedShare, wilson } from './statistics.js';

const fieldName = z.string().min(1);

/** The description of a judged benchmark: where its data is and which field holds what. */
export const judgedConfigSchema = z.strictObject({
  name: z.string().min(1).default('judged').describe('Name of the benchmark, in the report'),
  data: z.string().min(1).describe('JSONL file, or JSON file with a list'),
  fields: z.strictObject({
    id: fieldName.nullable().default(null).describe('Names the item; null: its position, from 0'),
    prompt: fieldName.describe('A field, or a text with {field} in it'),
    questions: fieldName.describe('The list of questions: texts or objects'),
    question: fieldName.default('question').describe('In an object: the text of the question'),
    questionId: fieldName.nullable().default(null).describe('In an object: its number; null: its position, from 0'),
    dependsOn: fieldName
      .nullable()
      .default(null)
      .describe('In an object: numbers of the questions that this one needs'),
    category: fieldName.nullable().default(null).describe('A text or a list of texts, to group results by'),
  }),
  judge: z
    .strictObject({
      model: z.string().min(1).describe('Name of the judge at its server, or its folder'),
      url: z.string().min(1).nullable().default(null).describe('Address of the server; null: the judge is a folder'),
      apiKeyEnv: z.string().min(1).default('OPENAI_API_KEY').describe('Environment variable with the key'),
      maxTokens: z.int().positive().default(1024).describe('Most tokens of a verdict, its reasoning included'),
      concurrency: z.int().positive().default(16).describe('Questions under way at the same time'),
    })
    .describe('The model that answers the questions'),
});

export type JudgedConfig = z.output<typeof judgedConfigSchema>;
export type JudgedFields = JudgedConfig['fields'];

export interface JudgedQuestion {
  text: string;
  /** Positions of the questions of the same item that must be met for this one to count. */
  dependsOn: readonly number[];
}

export interface JudgedItem {
  id: string;
  prompt: string;
  questions: readonly JudgedQuestion[];
  categories: readonly string[];
}

/** Reads a benchmark's file by the mapping of its fields. */
export function parseJudged(text: string, file: string, fields: JudgedFields): JudgedItem[] {
  const rows = text.trimStart().startsWith('[') ? parseList(text, file) : parseJsonl(text, file);
  const ids = new Set<string>();
  const items = rows.map(({ line, value }, position) => {
    const fail = (problem: string): never => {
      throw new FileFormatError(file, line === undefined ? `item ${position}: ${problem}` : problem, line);
    };
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail('an item must be an object');
    const item = readItem(value as Record<string, unknown>, position, fields, fail);
    if (ids.has(item.id)) return fail(`the id ${item.id} occurs twice`);
    ids.add(item.id);
    return item;
  });
  if (items.length === 0) throw new FileFormatError(file, 'no rows');
  return items;
}

function parseList(text: string, file: string): { line: undefined; value: unknown }[] {
  try {
    return (JSON.parse(text) as unknown[]).map((value) => ({ line: undefined, value }));
  } catch (error) {
    throw new FileFormatError(file, `not JSON: ${(error as Error).message}`, undefined, { cause: error });
  }
}

type Fail = (problem: string) => never;

function readItem(row: Record<string, unknown>, position: number, fields: JudgedFields, fail: Fail): JudgedItem {
  const id = fields.id === null ? position : row[fields.id];
  if (typeof id !== 'string' && typeof id !== 'number') fail(`${fields.id} must be a text or a number`);
  const list = row[fields.questions];
  if (!Array.isArray(list) || list.length === 0) fail(`${fields.questions} must be a list of at least one question`);
  const category = fields.category === null ? [] : (row[fields.category] ?? []);
  return {
    id: String(id),
    prompt: fillTemplate(row, fields.prompt, fail),
    questions: readQuestions(list as unknown[], fields, fail),
    categories: (Array.isArray(category) ? category : [category]).map(String),
  };
}

function fillTemplate(row: Record<string, unknown>, template: string, fail: Fail): string {
  const textOf = (name: string) => {
    const value = row[name];
    return typeof value === 'string'
      ? value
      : fail(`${name} must be a text; the row has ${Object.keys(row).join(', ')}`);
  };
  const prompt = template.includes('{')
    ? template.replace(/\{([^{}]+)\}/g, (_, name) => textOf(name))
    : textOf(template);
  return prompt.trim() === '' ? fail(`the prompt (${template}) is blank`) : prompt.trim();
}

function readQuestions(list: readonly unknown[], fields: JudgedFields, fail: Fail): JudgedQuestion[] {
  const rows = list.map((entry) => {
    if (typeof entry === 'string') return { [fields.question]: entry };
    return typeof entry === 'object' && entry !== null ? (entry as Record<string, unknown>) : {};
  });
  const numbers = rows.map((row, i) => String(fields.questionId === null ? i : row[fields.questionId]));
  const questions = rows.map((row, i) => {
    const text = row[fields.question];
    const needed = (fields.dependsOn === null ? undefined : row[fields.dependsOn]) ?? [];
    if (typeof text !== 'string' || text.trim() === '') return fail(`question ${i}: ${fields.question} must be a text`);
    if (!Array.isArray(needed))
      return fail(`question ${i}: ${fields.dependsOn} must be a list of numbers of questions`);
    const dependsOn = needed.map((number) => numbers.indexOf(String(number)));
    const unknown = dependsOn.indexOf(-1);
    if (unknown >= 0)
      return fail(`question ${i}: ${fields.dependsOn} names question ${needed[unknown]}, which the item has not`);
    return { text, dependsOn };
  });
  const inCycle = questions.findIndex((_, i) => reaches(questions, i, i));
  return inCycle >= 0 ? fail(`question ${inCycle} depends on itself`) : questions;
}

function reaches(questions: readonly JudgedQuestion[], from: number, to: number, seen = new Set<number>()): boolean {
  return questions[from]!.dependsOn.some((next) => {
    if (next === to) return true;
    if (seen.has(next)) return false;
    return reaches(questions, next, to, seen.add(next));
  });
}

/**
 * The verdicts with their dependencies: a question counts as met only if those that it needs are met as well. null, the
 * judge gave no verdict, stays null unless something else already decides for no.
 */
export function withDependencies(
  questions: readonly JudgedQuestion[],
  verdicts: readonly (boolean | null)[],
): (boolean | null)[] {
  const resolve = (i: number): boolean | null => {
    const all = [verdicts[i]!, ...questions[i]!.dependsOn.map(resolve)];
    if (all.includes(false)) return false;
    return all.includes(null) ? null : true;
  };
  return questions.map((_, i) => resolve(i));
}

export interface JudgedVerdict {
  item: JudgedItem;
  answer: string;
  missing: boolean;
  /** One a question, dependencies included. */
  verdicts: (boolean | null)[];
}

export interface JudgedSummary {
  items: number;
  questions: number;
  missing: number;
  /** Questions without a verdict: they count in no share. */
  unanswered: number;
  /** The share of questions that are met (InfoBench's decomposed requirements following ratio). */
  questionLevel: Estimate;
  /** The share of items all of whose questions are met, among the items that can be decided. */
  itemLevel: Estimate;
  /** Question level of each category. */
  byCategory: Record<string, Estimate>;
  intervals: Record<string, string>;
}

export function summariseJudged(results: readonly JudgedVerdict[]): JudgedSummary {
  const rows = results.map(({ verdicts }) => verdicts);
  const decided = rows.filter((row) => row.includes(false) || !row.includes(null));
  const categories = [...new Set(results.flatMap(({ item }) => item.categories))].sort();
  const level = (some: readonly JudgedVerdict[]) => {
    return groupedShare(some.map(({ verdicts }) => verdicts.filter((verdict) => verdict !== null)));
  };
  return {
    items: results.length,
    questions: rows.flat().length,
    missing: results.filter(({ missing }) => missing).length,
    unanswered: rows.flat().filter((verdict) => verdict === null).length,
    questionLevel: level(results),
    itemLevel: wilson(decided.filter((row) => !row.includes(false)).length, decided.length),
    byCategory: Object.fromEntries(
      categories.map((name) => [name, level(results.filter(({ item }) => item.categories.includes(name)))]),
    ),
    intervals: describeIntervals('item', 'question'),
  };
}
