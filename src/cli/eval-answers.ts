import { resolve } from 'node:path';
import type { ChatMessage } from '../data/prompts.js';
import { GrpoError } from '../errors.js';
import {
  type AnswerSource,
  type DecodingOptions,
  endpointAnswers,
  type Handover,
  localAnswers,
  twoModelAnswers,
} from '../eval/answers.js';
import { ChatClient } from '../eval/chat-client.js';
import { collect, type Identified } from '../eval/collect.js';
import { EvalFolder, fingerprint, responsesFile } from '../eval/eval-folder.js';
import { RecordLog } from '../eval/record-log.js';
import {
  type Answerable,
  matchResponses,
  missingError,
  type ResponseRow,
  responseProblem,
  toRow,
} from '../eval/responses.js';
import type { JsonClientOptions } from '../http/json-client.js';
import type { AnswerPartOptions } from '../rewards/answer-part.js';
import { ConsoleTracker } from '../tracking/console.js';
import { Interrupt, interruptedExitCode } from './interrupt.js';
import { type ModelFlags, readInput, withModel } from './model.js';

export interface AnswerFlags {
  out: string;
  model?: string;
  modelUrl?: string;
  responses?: string;
  allowMissing?: boolean;
  limit?: number;
  answerTag?: string;
  afterThink?: boolean;
  maxTokens: number;
  temperature: number;
  topP: number;
  seed?: number;
  system?: string;
  reasoningModel?: string;
  reasoningUrl?: string;
  reasoningMaxTokens: number;
  handover: Handover;
  apiKeyEnv: string;
  concurrency: number;
  timeout: number;
  retries: number;
  device: string;
  dtype: ModelFlags['dtype'];
  activations?: ModelFlags['activations'];
  threads?: number;
  batchSize: number;
  raw?: boolean;
}

/** An item whose first prompt is the one that a model gets. */
type Askable = Answerable & Identified;

/** Answers of an evaluation, and where it records them. */
export interface EvalSession {
  readonly folder: EvalFolder;
  readonly rows: ReadonlyMap<string, ResponseRow>;
  /** For readers of the result: what is odd about the answers. */
  readonly notes: string[];
  readonly progress: ConsoleTracker;
  readonly signal: AbortSignal;
}

/**
 * Opens or continues the folder of an evaluation, gets all answers and does the rest of the work with them. Without an
 * answer to every item it ends, unless `--allow-missing` was given. Returns the exit code.
 */
export async function withAnswers(
  flags: AnswerFlags,
  identity: Readonly<Record<string, unknown>>,
  items: readonly Askable[],
  work: (session: EvalSession) => Promise<void>,
): Promise<number> {
  checkFlags(flags);
  const finished = flags.responses === undefined ? undefined : await readInput(flags.responses);
  const source = finished === undefined ? generationIdentity(flags) : { responses: fingerprint(finished) };
  const matched = finished === undefined ? undefined : matchResponses(finished, flags.responses!, items);
  if (matched && matched.missing.length > 0 && !flags.allowMissing) {
    throw missingError(flags.responses!, items, matched.missing);
  }
  const folder = await EvalFolder.open(flags.out, { ...identity, ...source });
  const progress = new ConsoleTracker({ label: 'answers' });
  const interrupt = new Interrupt(() => progress.print('Stopping. What has been answered is kept.'));
  try {
    const notes = matched ? matchNotes(matched, items.length) : [];
    const rows = matched?.rows ?? (await generate(flags, folder, items, { progress, signal: interrupt.signal, notes }));
    await work({ folder, rows, notes: [...notes, ...stopNotes(rows)], progress, signal: interrupt.signal });
    return 0;
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    progress.print(`Stopped. The same command continues ${flags.out}.`);
    return interruptedExitCode;
  } finally {
    await progress.finish();
    interrupt.dispose();
  }
}

/** The part of each answer that is evaluated. */
export function answerPartOf(flags: AnswerFlags): AnswerPartOptions {
  return { tag: flags.answerTag, afterThink: flags.afterThink };
}

/** The first `--limit` items. */
export function limited<Item>(items: readonly Item[], { limit }: AnswerFlags): readonly Item[] {
  if (limit === undefined) return items;
  if (limit < 1) throw new GrpoError('GRPO_CONFIG', `--limit: must be at least 1, got ${limit}`);
  return items.slice(0, limit);
}

function checkFlags(flags: AnswerFlags): void {
  const fail = (message: string): never => {
    throw new GrpoError('GRPO_CONFIG', message);
  };
  if ((flags.model === undefined) === (flags.responses === undefined)) fail('eval needs either --model or --responses');
  if (flags.modelUrl !== undefined && flags.model === undefined) fail('--model-url needs --model, its name there');
  if ((flags.reasoningModel === undefined) !== (flags.reasoningUrl === undefined)) {
    fail('--reasoning-model and --reasoning-url need each other');
  }
  if (flags.raw && flags.modelUrl !== undefined) fail('--raw is for local models; a server applies its own template');
  if (flags.raw && flags.system !== undefined) fail('--raw has no place for --system');
  if (flags.raw && flags.reasoningUrl !== undefined && flags.handover === 'prefill') {
    fail('--raw has no place for --handover prefill');
  }
  const least: Record<string, [number, number]> = {
    '--max-tokens': [flags.maxTokens, 1],
    '--reasoning-max-tokens': [flags.reasoningMaxTokens, 1],
    '--concurrency': [flags.concurrency, 1],
    '--batch-size': [flags.batchSize, 1],
    '--retries': [flags.retries, 0],
    '--temperature': [flags.temperature, 0],
  };
  for (const [name, [value, minimum]] of Object.entries(least)) {
    if (value < minimum) fail(`${name}: must be at least ${minimum}, got ${value}`);
  }
  if (!(flags.timeout > 0)) fail(`--timeout: must be more than 0, got ${flags.timeout}`);
}

/** What decides the answers of a model; not how fast they come. */
function generationIdentity(flags: AnswerFlags): Record<string, unknown> {
  const { maxTokens, temperature, topP, seed, system } = flags;
  const { modelUrl, reasoningUrl, reasoningModel, reasoningMaxTokens, handover } = flags;
  const { dtype, activations } = flags;
  const local = { model: resolve(flags.model!), dtype, ...(activations && { activations }), raw: flags.raw ?? false };
  return {
    ...(modelUrl === undefined ? local : { modelUrl, model: flags.model }),
    ...{ maxTokens, temperature, topP, seed, system },
    ...(reasoningUrl !== undefined && { reasoningUrl, reasoningModel, reasoningMaxTokens, handover }),
  };
}

interface Generation {
  progress: ConsoleTracker;
  signal: AbortSignal;
  notes: string[];
}

async function generate(
  flags: AnswerFlags,
  folder: EvalFolder,
  items: readonly Askable[],
  { progress, signal, notes }: Generation,
): Promise<ReadonlyMap<string, ResponseRow>> {
  const log = await RecordLog.open<ResponseRow>(folder.file(responsesFile), responseProblem);
  const ids = new Set(items.map(({ id }) => id));
  const answers = () => new Map([...log.rows].filter(([id]) => ids.has(id)));
  const before = answers().size;
  if (before > 0) progress.print(`${before} of ${items.length} answers are there already.`);
  if (before === items.length) return answers();
  progress.start({ totalSteps: items.length });
  const begun = performance.now();
  let tokens = 0;
  const { failures, interrupted } = await withSource(flags, (source) =>
    collect(items, log, {
      batchSize: source.batchSize,
      concurrency: source.concurrency,
      signal,
      work: async (batch, first, both) => {
        const conversations = batch.map(({ prompts }) => conversationOf(prompts[0]!, flags.system));
        const given = await source.answer(conversations, first, both);
        return batch.map(({ id, prompts }, i) => toRow(id, prompts[0]!, given[i]!));
      },
      progress: (done, _, rows) => {
        tokens += rows.reduce((sum, row) => sum + (row.tokens ?? 0), 0);
        progress.metrics(done, { tokens_per_second: (1000 * tokens) / (performance.now() - begun) });
      },
    }),
  );
  if (interrupted) signal.throwIfAborted();
  await progress.finish();
  requireAll(failures, flags, items.length, notes);
  return answers();
}

/** Ends with an error that names what failed, or notes it under `--allow-missing`. */
export function requireAll(
  failures: readonly { id: string; message: string }[],
  { allowMissing }: Pick<AnswerFlags, 'allowMissing'>,
  count: number,
  notes: string[],
): void {
  if (failures.length === 0) return;
  if (allowMissing) {
    notes.push(`${failures.length} of ${count} prompts got no answer and count as failures.`);
    return;
  }
  const shown = failures.slice(0, 5).map(({ id, message }) => `  ${id}: ${message}`);
  if (failures.length > shown.length) shown.push(`  and ${failures.length - shown.length} more`);
  const advice = 'The same command tries these again; --allow-missing counts them as failures.';
  throw new GrpoError('GRPO_HTTP', `${failures.length} of ${count} failed:\n${shown.join('\n')}\n${advice}`);
}

async function withSource<T>(flags: AnswerFlags, use: (source: AnswerSource) => Promise<T>): Promise<T> {
  const { maxTokens, temperature, topP, seed, batchSize, raw = false } = flags;
  const decoding: DecodingOptions = { maxTokens, temperature, topP, seed };
  const withReasoner = (answerer: AnswerSource) => {
    if (flags.reasoningUrl === undefined) return use(answerer);
    const options = { ...decoding, maxTokens: flags.reasoningMaxTokens };
    const reasoner = endpointAnswers(client(flags, flags.reasoningUrl, flags.reasoningModel!), options);
    return use(twoModelAnswers(reasoner, answerer, flags.handover));
  };
  if (flags.modelUrl !== undefined) {
    return withReasoner(endpointAnswers(client(flags, flags.modelUrl, flags.model!), decoding));
  }
  return withModel({ ...flags, model: flags.model! }, (model) => {
    return withReasoner(localAnswers(model, { ...decoding, batchSize, raw }));
  });
}

function client(flags: AnswerFlags, url: string, model: string): ChatClient {
  const { concurrency } = flags;
  return new ChatClient({ url, model, concurrency, ...serverOptions(flags, flags.apiKeyEnv) });
}

/** How patiently servers are asked. The key is in the environment, so that no file and no process list shows it. */
export function serverOptions({ timeout, retries }: AnswerFlags, apiKeyEnv: string): JsonClientOptions {
  return { timeoutMs: 1000 * timeout, retries, backoffMs: 1000, apiKey: process.env[apiKeyEnv] || undefined };
}

function conversationOf(prompt: string, system: string | undefined): ChatMessage[] {
  const user = { role: 'user', content: prompt };
  return system === undefined ? [user] : [{ role: 'system', content: system }, user];
}

function matchNotes({ missing, unused }: { missing: string[]; unused: number }, count: number): string[] {
  const notes: string[] = [];
  if (missing.length > 0) {
    const named = missing.slice(0, 10).join(', ') + (missing.length > 10 ? ', …' : '');
    notes.push(`${missing.length} of ${count} prompts have no response and count as failures: ${named}.`);
  }
  if (unused > 0) notes.push(`${unused} responses belong to no prompt of the benchmark and are left out.`);
  return notes;
}

function stopNotes(rows: ReadonlyMap<string, ResponseRow>): string[] {
  const cut = [...rows.values()].filter(({ stopReason }) => stopReason === 'length').length;
  return cut === 0 ? [] : [`${cut} answers were cut off at the most tokens allowed.`];
}
