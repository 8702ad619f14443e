import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { raifRewards } from '../recipes/raif/rewards.js';
import { formatReward } from '../rewards/format.js';
import { ifevalReward } from '../rewards/ifeval-reward.js';
import { endpointJudge } from '../rewards/judge.js';
import { lengthReward, overlongPenalty } from '../rewards/length.js';
import { mathsReward } from '../rewards/maths-reward.js';
import { regexReward } from '../rewards/regex.js';
import { repetitionPenalty } from '../rewards/repetition.js';
import type { Reward } from '../rewards/reward.js';
import { Tokenizer } from '../text/tokenizer.js';
import { ConfigError, nearest, parseConfig } from '../trainer/parse-config.js';

/** What every entry of `rewards` may say, beside the options of the reward itself. */
const commonOptions = {
  weight: z.number().optional(),
  timeoutMs: z.number().positive().optional(),
};

interface BuiltIn {
  options: z.ZodObject;
  create(options: Record<string, unknown>): Reward | Reward[] | Promise<Reward[]>;
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
  maths: builtIn({ field: z.string().optional(), tag: z.string().optional() }, mathsReward),
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
  regex: builtIn({ pattern: z.string(), flags: z.string().optional() }, ({ pattern, flags }) =>
    regexReward({ pattern, flags }),
  ),
};

/** RAIF's rewards come together and bring their own weights. */
const raif: BuiltIn = {
  options: z.strictObject({
    name: z.string(),
    judge: z
      .strictObject({
        url: z.string(),
        model: z.string(),
        tokenizer: z.string().optional(),
        maxTokens: tokens.optional(),
        apiKeyVariable: z.string().optional(),
      })
      .optional(),
    repetition: z.number().nonnegative().optional(),
    released: z.boolean().optional(),
    timeoutMs: z.number().positive().optional(),
  }),
  create: async (options) => {
    const { judge, ...own } = options as RaifRewardEntry;
    return raifRewards({ ...own, judge: judge ? await openJudge(judge) : undefined });
  },
};
builtIns.raif = raif;

interface RaifRewardEntry {
  judge?: { url: string; model: string; tokenizer?: string; maxTokens?: number; apiKeyVariable?: string };
  repetition?: number;
  released?: boolean;
  timeoutMs?: number;
}

/** With the judge's own tokenizer it is asked for log-probs, else for text. */
async function openJudge({ tokenizer, apiKeyVariable, ...options }: NonNullable<RaifRewardEntry['judge']>) {
  const apiKey = apiKeyVariable === undefined ? undefined : process.env[apiKeyVariable];
  return endpointJudge({ ...options, apiKey, tokenizer: tokenizer ? await Tokenizer.load(tokenizer) : undefined });
}

const moduleOptions = z.strictObject({ module: z.string(), name: z.string().optional(), ...commonOptions });

/** An entry of `rewards`: the name of a built-in, the path of a module, or either with options. */
export const rewardEntry = z.union([z.string().min(1), z.record(z.string(), z.unknown())]);

/** Makes a module path of an entry absolute; built-in names stay. */
export function resolveRewardPath(entry: unknown, base: string): unknown {
  if (typeof entry === 'string') return isModulePath(entry) ? resolve(base, entry) : entry;
  const { module } = (entry ?? {}) as { module?: unknown };
  return typeof module === 'string' ? { ...(entry as object), module: resolve(base, module) } : entry;
}

/** The rewards that the entries describe. Throws a `ConfigError` with the path of each bad option. */
export async function loadRewards(entries: readonly z.output<typeof rewardEntry>[]): Promise<Reward[]> {
  const rewards: Reward[] = [];
  for (const [i, entry] of entries.entries()) rewards.push(...(await loadReward(entry, `rewards[${i}]`)));
  return rewards;
}

async function loadReward(entry: z.output<typeof rewardEntry>, path: string): Promise<Reward[]> {
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
  const created = await found.create(found === raif ? { ...own, timeoutMs } : own);
  if (Array.isArray(created)) return created;
  return [withCommonOptions(created, { weight, timeoutMs } as z.output<typeof moduleOptions>)];
}

/** `./my-reward.mjs#score`: the export `score` of the module, or its default export without `#`. */
async function loadModule(options: z.output<typeof moduleOptions>, path: string): Promise<Reward> {
  const [file, name = 'default'] = options.module.split('#');
  let exports: Record<string, unknown>;
  try {
    exports = await import(pathToFileURL(file!).href);
  } catch (error) {
    throw new ConfigError('rewards', [`${path}: cannot load ${file}: ${(error as Error).message}`]);
  }
  const value = exports[name];
  if (typeof value === 'function') {
    const reward = { name: name === 'default' ? value.name || 'reward' : name, score: value as Reward['score'] };
    return withCommonOptions(reward, options);
  }
  if (typeof (value as Reward | undefined)?.score === 'function') return withCommonOptions(value as Reward, options);
  const names = Object.keys(exports).sort().join(', ') || 'nothing';
  const problem = `${path}: ${file} exports no function or reward named ${name}; it exports ${names}`;
  throw new ConfigError('rewards', [problem]);
}

function withCommonOptions(reward: Reward, options: Partial<z.output<typeof moduleOptions>>): Reward {
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
