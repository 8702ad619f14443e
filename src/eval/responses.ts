import { parseJsonl } from '../data/jsonl.js';
import { FileFormatError, GrpoError } from '../errors.js';
import type { Answer } from './answers.js';

/** A line of responses.jsonl. Also a line of the original's response files, which have prompt and response. */
export interface ResponseRow {
  id: string;
  prompt: string;
  response: string;
  reasoning?: string;
  stopReason?: string;
  tokens?: number;
}

export function toRow(id: string, prompt: string, { text, reasoning, stopReason, tokens }: Answer): ResponseRow {
  return { id, prompt, response: text, ...(reasoning && { reasoning }), stopReason, ...(tokens && { tokens }) };
}

/** What is wrong with a row of responses, or undefined. */
export function responseProblem(row: Record<string, unknown>): string | undefined {
  for (const name of ['prompt', 'response']) {
    if (typeof row[name] !== 'string') return `${name} must be a text, got ${JSON.stringify(row[name]) ?? 'nothing'}`;
  }
  return undefined;
}

/** An item to answer, and every prompt that a file of finished answers may give it by. */
export interface Answerable {
  id: string;
  prompts: readonly string[];
}

export interface MatchedResponses {
  rows: Map<string, ResponseRow>;
  missing: string[];
  /** Responses to prompts that the benchmark does not have. */
  unused: number;
}

/**
 * Finds each item's response by its prompt in a file of `{prompt, response}` lines. Two responses to one prompt are an
 * error: nothing says which one counts.
 */
export function matchResponses(text: string, file: string, items: readonly Answerable[]): MatchedResponses {
  const byPrompt = new Map<string, ResponseRow & { line: number }>();
  const duplicates: string[] = [];
  for (const { line, value } of parseJsonl(text, file)) {
    const row = value as Record<string, unknown> | null;
    const isRow = typeof row === 'object' && row !== null && !Array.isArray(row);
    const problem = isRow ? responseProblem(row) : 'expected an object with prompt and response';
    if (problem) throw new FileFormatError(file, problem, line);
    const found = row as unknown as ResponseRow;
    const before = byPrompt.get(found.prompt);
    if (before) duplicates.push(`lines ${before.line} and ${line}: ${shorten(found.prompt)}`);
    else byPrompt.set(found.prompt, { ...found, line });
  }
  if (duplicates.length > 0) {
    throw new GrpoError('GRPO_INPUT', `${file}: several responses to the same prompt:\n${listed(duplicates)}`);
  }
  const rows = new Map<string, ResponseRow>();
  const used = new Set<unknown>();
  for (const { id, prompts } of items) {
    const found = prompts.map((prompt) => byPrompt.get(prompt)).find((row) => row !== undefined);
    if (!found) continue;
    used.add(found);
    const { line: _, ...row } = found;
    rows.set(id, { ...row, id });
  }
  const missing = items.filter(({ id }) => !rows.has(id)).map(({ id }) => id);
  return { rows, missing, unused: byPrompt.size - used.size };
}

/** The error about items without a response. */
export function missingError(file: string, items: readonly Answerable[], missing: readonly string[]): GrpoError {
  const prompts = new Map(items.map(({ id, prompts }) => [id, prompts[0]!]));
  const lines = missing.map((id) => `${id}: ${shorten(prompts.get(id)!)}`);
  const message = `${file}: no response to ${missing.length} of ${items.length} prompts (--allow-missing counts them as failures):\n${listed(lines)}`;
  return new GrpoError('GRPO_INPUT', message);
}

function listed(lines: readonly string[]): string {
  const shown = lines.slice(0, 10).map((line) => `  ${line}`);
  if (lines.length > shown.length) shown.push(`  and ${lines.length - shown.length} more`);
  return shown.join('\n');
}

function shorten(text: string): string {
  return JSON.stringify(text.length > 70 ? `${text.slice(0, 67)}...` : text);
}
