import type { PromptRecord } from '../data/prompts.js';
import { parseDemonstrations, parsePrompts } from '../data/records.js';
import { findOverlaps } from '../recipes/raif/contamination.js';
import { parseRaifDemonstrations, parseRaifPrompts, type RaifRecord } from '../recipes/raif/data.js';
import { dropLongDemonstrations, dropLongPrompts, mixRows } from '../recipes/raif/select-rows.js';
import { Tokenizer } from '../text/tokenizer.js';
import type { GRPOConfig } from '../trainer/config.js';
import { ConfigError } from '../trainer/parse-config.js';
import type { RaifSource, TrainRun } from './run-config.js';
import { readRows } from './training.js';

export interface TrainData {
  dataset: PromptRecord[];
  evalDataset?: PromptRecord[];
  demonstrations?: PromptRecord[];
  /** What a person should know about the rows, each a line. */
  notes: string[];
}

/** Reads the files of a run, in its format. */
export async function readTrainData(run: TrainRun, config: GRPOConfig): Promise<TrainData> {
  if (run.demonstrations.length === 0 && config.sftCoefficient > 0) {
    throw new ConfigError('config', ['sftCoefficient: needs demonstrations']);
  }
  if (run.raif) return readRaifData(run, run.raif);
  return {
    dataset: await readRows(run.dataset, parsePrompts),
    evalDataset: present(await readRows(run.evalDataset, parsePrompts)),
    demonstrations: present(await readRows(run.demonstrations, parseDemonstrations)),
    notes: [],
  };
}

async function readRaifData(run: TrainRun, raif: RaifSource): Promise<TrainData> {
  const notes: string[] = [];
  const tokenizer = await Tokenizer.load(run.model);
  const rowsOf = async <Row>(
    paths: readonly string[],
    parse: (text: string, file: string, options: RaifSource) => { records: Row[]; invalid: string[] },
  ) =>
    readRows(paths, (text, file) => {
      const { records, invalid } = parse(text, file, raif);
      if (invalid.length > 0) notes.push(summary(`${file}: left out as unusable`, invalid));
      return records;
    });
  const take = <Row>({ kept, dropped }: { kept: Row[]; dropped: string[] }, what: string) => {
    if (dropped.length > 0) notes.push(summary(`${what} left out as too long`, dropped));
    return kept;
  };
  const prompts = await rowsOf(run.dataset, parseRaifPrompts);
  const short = take(dropLongPrompts(prompts, tokenizer, raif.maxPromptTokens), 'Prompts');
  const dataset = mixRows(short, raif.mix, run.seed);
  const evalDataset = present(await rowsOf(run.evalDataset, parseRaifPrompts));
  const experts = await rowsOf(run.demonstrations, parseRaifDemonstrations);
  const demonstrations = present(
    take(dropLongDemonstrations(experts, tokenizer, raif.maxDemonstrationTokens), 'Demonstrations'),
  );
  notes.push(...(await overlapNotes(dataset, raif)));
  const maths = dataset.filter(({ kind }) => kind === 'maths').length;
  notes.push(`Rows: ${maths} of maths, ${dataset.length - maths} of instructions, out of ${prompts.length} read`);
  return { dataset, evalDataset, demonstrations, notes };
}

async function overlapNotes(
  dataset: readonly RaifRecord[],
  { benchmark, overlapWords }: RaifSource,
): Promise<string[]> {
  const texts = await readRows(benchmark, (text) => text.split('\n').filter((line) => line.trim() !== ''));
  if (texts.length === 0) return [];
  const prompts = dataset.map(({ prompt }) => prompt);
  const overlaps = findOverlaps(prompts, texts, overlapWords);
  const lines = overlaps.map(({ text, words }) => `${dataset[text]!.origin}: ${words}`);
  const heading = `Prompts that share ${overlapWords} words in a row with a benchmark (kept)`;
  return [overlaps.length === 0 ? `${heading}: none` : summary(heading, lines)];
}

/** How many, and the first of them. */
function summary(heading: string, lines: readonly string[]): string {
  const shown = lines.slice(0, 5).map((line) => `\n  ${line}`);
  return `${heading}: ${lines.length}${shown.join('')}${lines.length > 5 ? '\n  …' : ''}`;
}

function present<Row>(rows: Row[]): Row[] | undefined {
  return rows.length > 0 ? rows : undefined;
}
