import { parseJsonl } from '../data/jsonl.js';
import { FileFormatError, GrpoError } from '../errors.js';
import { type AnswerPartOptions, answerPart } from '../rewards/answer-part.js';
import { checkInstructions, type Instruction, validateInstructions } from '../rewards/ifeval/index.js';
import { describeIntervals, type Estimate, groupedShare, wilson } from './statistics.js';

/** A line of IFEval's input_data.jsonl. */
export interface IFEvalItem {
  /** The key as text; the line where the data has no keys. */
  id: string;
  prompt: string;
  instructionIds: readonly string[];
  kwargs: readonly object[];
  instructions: readonly Instruction[];
}

/** Reads `key`, `prompt`, `instruction_id_list` and `kwargs`; every instruction that cannot be checked is an error. */
export function parseIFEval(text: string, file: string): IFEvalItem[] {
  const ids = new Set<string>();
  const items = parseJsonl(text, file).map(({ line, value }) => {
    const item = readItem(value, file, line);
    if (ids.has(item.id)) throw new FileFormatError(file, `the key ${item.id} occurs twice`, line);
    ids.add(item.id);
    return item;
  });
  if (items.length === 0) throw new FileFormatError(file, 'no rows');
  return items;
}

function readItem(value: unknown, file: string, line: number): IFEvalItem {
  const { key, prompt, instruction_id_list, kwargs } = (value ?? {}) as Record<string, unknown>;
  if (typeof prompt !== 'string' || prompt === '') throw new FileFormatError(file, 'prompt must be a text', line);
  if (key !== undefined && typeof key !== 'string' && typeof key !== 'number') {
    throw new FileFormatError(file, `key must be a number or a text, got ${JSON.stringify(key)}`, line);
  }
  const [instructionIds, parameters] = [instruction_id_list as string[], kwargs as object[]];
  let instructions: readonly Instruction[];
  try {
    instructions = validateInstructions(instructionIds, parameters);
  } catch (error) {
    if (!(error instanceof GrpoError)) throw error;
    throw new FileFormatError(file, error.message, line, { cause: error });
  }
  if (instructions.length === 0) throw new FileFormatError(file, 'instruction_id_list is empty', line);
  return {
    id: key === undefined ? `line ${line}` : String(key),
    prompt,
    instructionIds,
    kwargs: parameters,
    instructions,
  };
}

/** One response and the verdict on each of its instructions. */
export interface IFEvalVerdict {
  item: IFEvalItem;
  /** The part of the response that was checked; empty when there is none. */
  answer: string;
  missing: boolean;
  strict: boolean[];
  loose: boolean[];
}

/** Checks responses with the verifier that the reward uses. An item without a response follows no instruction. */
export function checkResponses(
  items: readonly IFEvalItem[],
  responses: ReadonlyMap<string, { response: string }>,
  part: AnswerPartOptions = {},
): IFEvalVerdict[] {
  return items.map((item) => {
    const response = responses.get(item.id)?.response;
    const answer = response === undefined ? '' : (answerPart(response, part) ?? '');
    const check = (loose: boolean) => checkInstructions(item.instructions, item.prompt, answer, { loose });
    return { item, answer, missing: response === undefined, strict: check(false), loose: check(true) };
  });
}

export type Mode = 'strict' | 'loose';

export interface IFEvalAccuracy {
  /** The share of prompts all of whose instructions are followed. */
  promptLevel: Estimate;
  /** The share of instructions that are followed. */
  instructionLevel: Estimate;
  byInstruction: Record<string, Estimate>;
  /** By the part of the instruction's id before the colon. */
  byGroup: Record<string, Estimate>;
}

export interface IFEvalSummary extends Record<Mode, IFEvalAccuracy> {
  prompts: number;
  instructions: number;
  missing: number;
  intervals: Record<string, string>;
}

export function summariseIFEval(verdicts: readonly IFEvalVerdict[]): IFEvalSummary {
  return {
    prompts: verdicts.length,
    instructions: verdicts.reduce((count, { strict }) => count + strict.length, 0),
    missing: verdicts.filter(({ missing }) => missing).length,
    intervals: describeIntervals('prompt', 'instruction'),
    strict: accuracy(verdicts, 'strict'),
    loose: accuracy(verdicts, 'loose'),
  };
}

function accuracy(verdicts: readonly IFEvalVerdict[], mode: Mode): IFEvalAccuracy {
  const rows = verdicts.map((verdict) => verdict[mode]);
  return {
    promptLevel: wilson(rows.filter((row) => row.every(Boolean)).length, rows.length),
    instructionLevel: groupedShare(rows),
    byInstruction: byName(verdicts, mode, (id) => id),
    byGroup: byName(verdicts, mode, (id) => id.split(':')[0]!),
  };
}

function byName(verdicts: readonly IFEvalVerdict[], mode: Mode, nameOf: (id: string) => string) {
  const groups = new Map<string, boolean[][]>();
  for (const verdict of verdicts) {
    const own = new Map<string, boolean[]>();
    for (const [i, id] of verdict.item.instructionIds.entries()) {
      const name = nameOf(id);
      own.set(name, [...(own.get(name) ?? []), verdict[mode][i]!]);
    }
    for (const [name, row] of own) groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  const sorted = [...groups].sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(sorted.map(([name, rows]) => [name, groupedShare(rows)]));
}

/** A line of the original's eval_results files, with its names in its order. */
export interface OriginalResult {
  follow_all_instructions: boolean;
  follow_instruction_list: boolean[];
  instruction_id_list: readonly string[];
  prompt: string;
  response: string;
}

export function originalResults(verdicts: readonly IFEvalVerdict[], mode: Mode): OriginalResult[] {
  return verdicts.map((verdict) => ({
    follow_all_instructions: verdict[mode].every(Boolean),
    follow_instruction_list: verdict[mode],
    instruction_id_list: verdict.item.instructionIds,
    prompt: verdict.item.prompt,
    response: verdict.answer,
  }));
}
