import { FileFormatError } from '../errors.js';
import { parseJsonl } from './jsonl.js';
import type { ChatMessage, PromptRecord } from './prompts.js';

/** A demonstration: a prompt and the completion that it should get. */
export interface DemonstrationRecord extends PromptRecord {
  completion: string;
}

/** The prompts of a JSON Lines text. `file` begins the message of a `FileFormatError`. */
export function parsePrompts(text: string, file: string): PromptRecord[] {
  const records = parseJsonl(text, file).map(({ line, value }) => {
    const problem = promptProblem(value);
    if (problem) throw new FileFormatError(file, problem, line);
    return value as PromptRecord;
  });
  if (records.length === 0) throw new FileFormatError(file, 'no rows');
  return records;
}

/**
 * The demonstrations of a JSON Lines text: rows with `completion`, or with `messages` that end with one of the
 * assistant, which is then the completion.
 */
export function parseDemonstrations(text: string, file: string): DemonstrationRecord[] {
  const records = parseJsonl(text, file).map(({ line, value }) => {
    const problem = promptProblem(value);
    if (problem) throw new FileFormatError(file, problem, line);
    const record = asDemonstration(value as PromptRecord);
    if (typeof record === 'string') throw new FileFormatError(file, record, line);
    return record;
  });
  if (records.length === 0) throw new FileFormatError(file, 'no rows');
  return records;
}

/** The record as a demonstration, or what it lacks. */
export function asDemonstration(record: PromptRecord): DemonstrationRecord | string {
  if (typeof record.completion === 'string' && record.completion !== '') return record as DemonstrationRecord;
  if (record.completion !== undefined) return `completion must be a text, got ${JSON.stringify(record.completion)}`;
  const last = record.messages?.at(-1);
  if (last?.role !== 'assistant')
    return 'no completion: neither a field of that name nor a last message of the assistant';
  if (record.messages!.length < 2) return 'no prompt: the only message is the completion';
  return { ...record, messages: record.messages!.slice(0, -1), completion: last.content };
}

/** What keeps a value from being a `PromptRecord`, or undefined. */
export function promptProblem(value: unknown): string | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return `a row must be an object with prompt or messages, got ${JSON.stringify(value)?.slice(0, 60)}`;
  }
  const { prompt, messages, addSpecialTokens = true } = value as Record<string, unknown>;
  if (typeof addSpecialTokens !== 'boolean') return 'addSpecialTokens must be true or false';
  if (prompt === undefined && messages === undefined) {
    return `no prompt or messages; the row has ${Object.keys(value).join(', ') || 'no fields'}`;
  }
  if (prompt !== undefined && messages !== undefined) return 'both prompt and messages; give one of them';
  if (prompt !== undefined) {
    return typeof prompt === 'string' && prompt !== ''
      ? undefined
      : `prompt must be a text, got ${JSON.stringify(prompt)}`;
  }
  if (!Array.isArray(messages) || messages.length === 0) return 'messages must be a list of at least one message';
  const bad = messages.findIndex((message) => !isMessage(message));
  return bad < 0 ? undefined : `messages[${bad}] must have a role and a content, both texts`;
}

function isMessage(value: unknown): value is ChatMessage {
  const message = value as Partial<ChatMessage> | null;
  return typeof message === 'object' && typeof message?.role === 'string' && typeof message.content === 'string';
}
