import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import type { PromptRecord } from '../data/prompts.js';
import type { LoadOptions } from '../models/causal-lm.js';
import { raifRewards } from '../recipes/raif/rewards.js';
import { answerPart } from '../rewards/answer-part.js';
import { formatReward } from '../rewards/format.js';
import { ifevalReward } from '../rewards/ifeval-reward.js';
import { judgeQuestions, judgeReward } from '../rewards/judge.js';
import { lengthReward, overlongPenalty } from '../rewards/length.js';
import { mathsReward } from '../rewards/maths-reward.js';
import { pooledReward } from '../rewards/pooled.js';
import { regexReward } from '../rewards/regex.js';
import { repetitionPenalty } from '../rewards/repetition.js';
import type { Reward, RewardSample } from '../rewards/reward.js';
import type { Device } from '../tensor.js';
import { ConfigError, nearest, parseConfig } from '../trainer/parse-config.js';
import { ConfiguredJudge, checkJudge, type JudgeSource, judgeShape } from './judge.js';

/** A reward that may hold more than itself: the weights of a judge, threads. */
export interface LoadedReward extends Reward {
  /** Called before training, not by a plan of it. */
  open?(device: Device, formats: Pick<LoadOptions, 'dtype' | 'activations'>): Promise<void>;
  close?(): Promise<void>;
}

const milliseconds = z
  .number()
  .positive()
  .max(2 ** 31 - 1);

/** What every entry of `rewards` may say, beside the options of the reward itself. */
const commonOptions = {
  weight: z.number().optional(),
  timeoutMs: milliseconds.optional(),
};

/** Score in threads; `timeoutMs` in it is for one call, the one beside it for a batch. */
const poolOptions = z
  .strictObject({
    size: z.int().positive().optional(),
    timeoutMs: milliseconds.optional(),
    startTimeoutMs: milliseconds.optional(),
    samplesPerCall: z.int().positive().optional(),
    maxMemoryMb: z.int().positive().optional(),
  })
  .optional();

interface BuiltIn {
  options: z.ZodObject;
  create(options: Record<string, unknown>): LoadedReward | LoadedReward[];
  /** It keeps `timeoutMs` by itself, and with it what was scored before. */
  ownTimeLimit?: boolean;
}

function builtIn<Shape extends z.ZodRawShape>(
  shape: Shape,
  create: (options: z.output<z.ZodObject<Shape>>) => Reward,
): BuiltIn {
  const options = z.strictObject({ ...shape, name: z.string(), ...commonOptions });
  return { options, create: create as unknown as BuiltIn['create'] };
}

const tokens = z.number().positive();

/** The rewards that a configuration can name. */
const builtIns: Record<string, BuiltIn> = {
  format: builtIn(
    {
      tags: z.tuple([z.string()], z.string()).optional(),
      firstTagOpen: z.boolean().optional(),
      partial: z.boolean().optional(),
    },
    formatReward,
  ),
  maths: builtIn(
    { field: z.string().optional(), tag: z.string().optional(), pool: poolOptions },
    ({ field, tag, pool }) => inPool(mathsReward, 'maths-reward', { field, tag }, pool),
  ),
  ifeval: builtIn(
    {
      level: z.enum(['fraction', 'all']).optional(),
      loose: z.boolean().optional(),
      tag: z.string().optional(),
      afterThink: z.boolean().optional(),
    },
    ifevalReward,
  ),
  length: builtIn({ target: tokens, tolerance: tokens.optional() }, lengthReward),
  overlong: builtIn({ maxLength: tokens, buffer: tokens }, overlongPenalty),
  repetition: builtIn({ size: z.int().positive().optional() }, repetitionPenalty),
  regex: builtIn({ pattern: z.string(), flags: z.string().optional(), pool: poolOptions }, ({ pattern, flags, pool }) =>
    inPool(regexReward, 'regex', { pattern, flags }, pool),
  ),
};

/** The reward that `make`, of a file of `src/rewards`, makes of the options; with a pool, in its threads. */
function inPool<Options>(
  make: (options: Options) => Reward,
  file: string,
  options: Options,
  pool: z.output<typeof poolOptions>,
): Reward {
  const reward = make(options);
  if (!pool) return reward;
  const module = new URL(`../rewards/${file}.js`, import.meta.url).href;
  return pooledReward({ ...pool, module, export: make.name, args: [options], name: reward.name });
}

const judgeOptions = z
  .strictObject({
    name: z.string(),
    ...judgeShape,
    field: z.string().optional(),
    tag: z.string().optional(),
    afterThink: z.boolean().optional(),
    verdicts: z.strictObject({ yes: z.string().min(1), no: z.string().min(1) }).optional(),
    concurrency: z.int().positive().optional(),
    ...commonOptions,
  })
  .superRefine(checkJudge);

type JudgeEntry = Omit<z.output<typeof judgeOptions>, 'name' | 'weight'>;

builtIns.judge = {
  options: judgeOptions,
  create: (options) => createJudge(options as JudgeEntry),
  ownTimeLimit: true,
};

function createJudge({ field, tag, afterThink, verdicts, concurrency, timeoutMs, ...source }: JudgeEntry) {
  const judge = new ConfiguredJudge(source);
  const answer = ({ completion }: RewardSample) => answerPart(completion, { tag, afterThink }) ?? null;
  const check = (record: PromptRecord) => void judgeQuestions(record, field);
  return { ...judgeReward({ judge, field, answer, verdicts, concurrency, timeoutMs }), check, ...ownedBy(judge) };
}

/** RAIF's rewards come together and bring their own weights. */
builtIns.raif = {
  options: z.strictObject({
    name: z.string(),
    judge: z.strictObject(judgeShape).superRefine(checkJudge).optional(),
    repetition: z.number().nonnegative().optional(),
    released: z.boolean().optional(),
    timeoutMs: milliseconds.optional(),
  }),
  create: ({ judge: source, ...options }) => {
    if (!source) return raifRewards(options);
    const judge = new ConfiguredJudge(source as JudgeSource);
    const [first, ...others] = raifRewards({ ...options, judge });
    return [{ ...first!, ...ownedBy(judge) }, ...others];
  },
  ownTimeLimit: true,
};

function ownedBy(judge: ConfiguredJudge): Required<Pick<LoadedReward, 'open' | 'close'>> {
  return { open: (device, formats) => judge.open(device, formats), close: () => judge.close() };
}

/** The names of the rewards that need no module. */
export const builtInRewards = Object.keys(builtIns);

const moduleOptions = z.strictObject({
  module: z.string(),
  name: z.string().optional(),
  pool: poolOptions,
  ...commonOptions,
});

/** An entry of `rewards`: the name of a built-in, the path of a module, or either with options. */
export const rewardEntry = z.union([z.string().min(1), z.record(z.string(), z.unknown())]);

/** Makes the paths of an entry absolute: of a module, and of the folders of a judge; built-in names stay. */
export function resolveRewardPath(entry: unknown, base: string): unknown {
  if (typeof entry === 'string') return isModulePath(entry) ? resolve(base, entry) : entry;
  if (!isMap(entry)) return entry;
  if (typeof entry.module === 'string') return { ...entry, module: resolve(base, entry.module) };
  if (entry.name === 'judge') return resolveJudgePaths(entry, base);
  return isMap(entry.judge) ? { ...entry, judge: resolveJudgePaths(entry.judge, base) } : entry;
}

function resolveJudgePaths(source: Record<string, unknown>, base: string): Record<string, unknown> {
  const folders = source.url === undefined ? ['model', 'tokenizer'] : ['tokenizer'];
  const given = folders.filter((option) => typeof source[option] === 'string');
  return { ...source, ...Object.fromEntries(given.map((option) => [option, resolve(base, source[option] as string)])) };
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The rewards that the entries describe. Throws a `ConfigError` with the path of each bad option. */
export async function loadRewards(entries: readonly z.output<typeof rewardEntry>[]): Promise<LoadedReward[]> {
  const rewards: LoadedReward[] = [];
  for (const [i, entry] of entries.entries()) rewards.push(...(await loadReward(entry, `rewards[${i}]`)));
  return rewards;
}

async function loadReward(entry: z.output<typeof rewardEntry>, path: string): Promise<LoadedReward[]> {
  if (typeof entry !== 'string' && 'module' in entry)
    return [await loadModule(parseAt(path, moduleOptions, entry), path)];
  if (typeof entry === 'string' && isModulePath(entry)) return [await loadModule({ module: entry }, path)];
  const options = typeof entry === 'string' ? { name: entry } : entry;
  const found = builtIns[String(options.name)];
  if (!found) {
    const near = nearest(String(options.name), Object.keys(builtIns));
    const hint = near ? `; did you mean ${near}?` : `; built in are ${Object.keys(builtIns).join(', ')}`;
    throw new ConfigError('rewards', [`${path}: unknown reward ${JSON.stringify(options.name)}${hint}`]);
  }
  const { name: _, weight, timeoutMs, ...own } = parseAt(path, found.options, options);
  const created = found.create(found.ownTimeLimit ? { ...own, timeoutMs } : own);
  if (Array.isArray(created)) return created;
  return [withCommonOptions(created, { weight, ...(found.ownTimeLimit ? {} : { timeoutMs }) } as CommonOptions)];
}

/** `./my-reward.mjs#score`: the export `score` of the module, or its default export without `#`. */
async function loadModule(options: z.output<typeof moduleOptions>, path: string): Promise<LoadedReward> {
  const [file, name = 'default'] = options.module.split('#');
  let exports: Record<string, unknown>;
  try {
    exports = await import(pathToFileURL(file!).href);
  } catch (error) {
    throw new ConfigError('rewards', [`${path}: cannot load ${file}: ${(error as Error).message}`]);
  }
  const reward = asReward(exports[name], name);
  if (!reward) {
    const names = Object.keys(exports).sort().join(', ') || 'nothing';
    const problem = `${path}: ${file} exports no function or reward named ${name}; it exports ${names}`;
    throw new ConfigError('rewards', [problem]);
  }
  if (!options.pool) return withCommonOptions(reward, options);
  const { timeoutMs, score, close } = pooledReward({ ...options.pool, module: file!, export: name, name: reward.name });
  return withCommonOptions({ ...reward, timeoutMs, score, close }, options);
}

/** What a module exports as a reward: a function, or an object with one. Nothing else of the object is taken. */
function asReward(value: unknown, exported: string): Reward | null {
  if (typeof value === 'function') {
    return { name: exported === 'default' ? value.name || 'reward' : exported, score: value as Reward['score'] };
  }
  const reward = value as Reward | null | undefined;
  if (typeof reward?.score !== 'function') return null;
  const { name, weight, timeoutMs } = reward;
  const check = reward.check && ((record: PromptRecord) => reward.check!(record));
  return { name, weight, timeoutMs, check, score: (batch) => reward.score(batch) };
}

type CommonOptions = Partial<Pick<z.output<typeof moduleOptions>, 'name' | 'weight' | 'timeoutMs'>>;

function withCommonOptions(reward: LoadedReward, options: CommonOptions): LoadedReward {
  const { name = reward.name, weight = reward.weight, timeoutMs = reward.timeoutMs } = options;
  return { ...reward, name, weight, timeoutMs };
}

function isModulePath(text: string): boolean {
  return /^\.{0,2}[/\\]|^[a-z]:[/\\]/i.test(text);
}

/** `parseConfig` for a part of a configuration: its problems get the path of that part. */
function parseAt<Schema extends z.ZodObject>(path: string, schema: Schema, value: unknown): z.output<Schema> {
  try {
    return parseConfig(schema, value);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const own = error.problems.map((problem) => `${path}.${problem}`);
    throw new ConfigError(error.source, own);
  }
}
