import { encodeDemonstration, encodePrompt } from '../../data/encode.js';
import type { PromptRecord } from '../../data/prompts.js';
import { permutation, randomSource } from '../../data/random.js';
import type { DemonstrationRecord } from '../../data/records.js';
import { InvalidArgumentError } from '../../errors.js';
import type { Tokenizer } from '../../text/tokenizer.js';
import type { RaifRecord } from './data.js';

/** Parts of maths and of instructions, such as 1 and 1; null takes everything there is. */
export type Mix = { maths: number; instructions: number } | null;

/**
 * As many rows as fit the ratio, drawn at random by `seed`, and shuffled. One of the two kinds is used whole, unless its
 * part is 0.
 */
export function mixRows(records: readonly RaifRecord[], mix: Mix, seed: number): RaifRecord[] {
  const shuffled = permutation(records.length, randomSource(seed, 0)).map((i) => records[i]!);
  if (mix === null) return shuffled;
  const kinds = [
    { name: 'maths', part: mix.maths, rows: shuffled.filter(({ kind }) => kind === 'maths') },
    { name: 'instructions', part: mix.instructions, rows: shuffled.filter(({ kind }) => kind !== 'maths') },
  ];
  for (const { name, part, rows } of kinds) {
    if (!(part >= 0 && Number.isFinite(part))) throw new InvalidArgumentError(`mix.${name}`, 'a number >= 0', part);
    if (part > 0 && rows.length === 0)
      throw new InvalidArgumentError(`mix.${name}`, '0, since there are no such rows', part);
  }
  const wanted = kinds.filter(({ part }) => part > 0);
  if (wanted.length === 0) throw new InvalidArgumentError('mix', 'a part above 0', mix);
  const scale = Math.min(...wanted.map(({ part, rows }) => rows.length / part));
  const taken = new Set(wanted.flatMap(({ part, rows }) => rows.slice(0, Math.round(scale * part))));
  return shuffled.filter((record) => taken.has(record));
}

/** Rows, and a line about each that was left out. */
export interface Filtered<Row> {
  kept: Row[];
  dropped: string[];
}

/** Leaves out prompts of more than `most` tokens: cut, they would lose what they ask or where the reply begins. */
export function dropLongPrompts<Row extends PromptRecord>(
  records: readonly Row[],
  tokenizer: Tokenizer,
  most: number | null,
): Filtered<Row> {
  return filterByLength(records, most, (record) => encodePrompt(record, tokenizer, null).ids.length);
}

/** Leaves out demonstrations of more than `most` tokens, prompt and reply together. */
export function dropLongDemonstrations(
  records: readonly DemonstrationRecord[],
  tokenizer: Tokenizer,
  most: number | null,
): Filtered<DemonstrationRecord> {
  return filterByLength(records, most, (record) => {
    const { promptIds, completionIds } = encodeDemonstration(record, tokenizer, null);
    return promptIds.length + completionIds.length;
  });
}

function filterByLength<Row extends PromptRecord>(
  records: readonly Row[],
  most: number | null,
  lengthOf: (record: Row) => number,
): Filtered<Row> {
  if (most === null) return { kept: [...records], dropped: [] };
  const result: Filtered<Row> = { kept: [], dropped: [] };
  records.forEach((record, i) => {
    const length = lengthOf(record);
    if (length <= most) result.kept.push(record);
    else result.dropped.push(`${record.origin ?? `row ${i + 1}`}: ${length} tokens, more than ${most}`);
  });
  return result;
}
