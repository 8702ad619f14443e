import { InvalidArgumentError } from '../errors.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { PromptRecord } from './prompts.js';
import { asDemonstration, type DemonstrationRecord, promptProblem } from './records.js';

export interface EncodedPrompt {
  /** As the model sees it. */
  text: string;
  ids: Int32Array;
}

/** Throws an `InvalidArgumentError` that names the first row that cannot be used. */
export function checkPrompts(name: string, records: readonly PromptRecord[]): void {
  if (!Array.isArray(records) || records.length === 0)
    throw new InvalidArgumentError(name, 'at least one row', records);
  records.forEach((record, i) => {
    const problem = promptProblem(record);
    if (problem) throw new InvalidArgumentError(`${name}[${i}]`, `a prompt record (${problem})`, record);
  });
}

/** The records as demonstrations; throws as `checkPrompts` does. */
export function checkDemonstrations(name: string, records: readonly PromptRecord[]): DemonstrationRecord[] {
  checkPrompts(name, records);
  return records.map((record, i) => {
    const demonstration = asDemonstration(record);
    if (typeof demonstration !== 'string') return demonstration;
    throw new InvalidArgumentError(`${name}[${i}]`, `a demonstration (${demonstration})`, record);
  });
}

/**
 * A prompt in tokens: the text as it is, or messages by the chat template; `change` may alter that text. Keeps the last
 * `maxLength` tokens.
 */
export function encodePrompt(
  record: PromptRecord,
  tokenizer: Tokenizer,
  maxLength: number | null,
  change: (text: string) => string = (text) => text,
): EncodedPrompt {
  const text = change(record.prompt ?? tokenizer.applyChatTemplate(record.messages!));
  const addSpecialTokens = record.prompt !== undefined && record.addSpecialTokens !== false;
  const ids = tokenizer.encode(text, { addSpecialTokens });
  if (ids.length === 0) throw new InvalidArgumentError('prompt', 'at least one token', text);
  return { text, ids: maxLength !== null && ids.length > maxLength ? ids.slice(-maxLength) : ids };
}

/**
 * A demonstration in tokens, the end token after the completion. `maxLength` counts both parts and cuts at the end; an
 * example with nothing of the completion left is an error.
 */
export function encodeDemonstration(
  record: DemonstrationRecord,
  tokenizer: Tokenizer,
  maxLength: number | null,
): { promptIds: Int32Array; completionIds: Int32Array } {
  const promptIds = encodePrompt(record, tokenizer, null).ids;
  const text = tokenizer.encode(record.completion, { addSpecialTokens: false });
  const end = tokenizer.eosTokenId;
  const whole = end === null || text.at(-1) === end ? text : Int32Array.of(...text, end);
  const room = maxLength === null ? whole.length : maxLength - promptIds.length;
  if (room <= 0 || whole.length === 0) {
    const expected = `a completion of at least one token within maxLength (${maxLength}) after a prompt of ${promptIds.length}`;
    throw new InvalidArgumentError('completion', expected, record.completion);
  }
  return { promptIds, completionIds: whole.length > room ? whole.slice(0, room) : whole };
}
