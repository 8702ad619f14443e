import { resolve } from 'node:path';
import { z } from 'zod';
import { activationDTypes } from '../models/activations.js';
import { grpoConfigSchema, sftConfigSchema } from '../trainer/config.js';
import type { PathOptions } from './config-source.js';
import { engineSource } from './engine.js';
import { builtInRewards, resolveRewardPath, rewardEntry } from './rewards.js';

/** What `grpo train` and `grpo sft` need beside the options of their trainer: the model, the data, the machine. */
const sources = {
  model: z.string().min(1).describe('Folder of the model, as Hugging Face writes it'),
  dataset: z.array(z.string().min(1)).min(1).describe('JSONL file with the training data'),
  evalDataset: z.array(z.string().min(1)).default([]).describe('JSONL file with held-out data'),
};

const machine = {
  device: z
    .string()
    .default('auto')
    .describe('Where to compute: auto, cpu, cuda, cuda:1, webgpu, webgpu:<part of a name>'),
  devices: z
    .array(z.string().min(1))
    .min(1)
    .nullable()
    .default(null)
    .describe('With several ranks on a machine: the device of each, by local rank; null: device says it'),
  dtype: z.enum(['f32', 'bf16']).default('f32').describe('Number format of the weights'),
  activations: z
    .enum(activationDTypes)
    .nullable()
    .default(null)
    .describe('Number format of activations, keys and values; null: bf16 for bf16 weights on CUDA, else f32'),
  threads: z
    .int()
    .positive()
    .nullable()
    .default(null)
    .describe('Threads of the CPU kernels; null: all, shared out among the ranks of a machine'),
  joinTimeout: z.number().positive().default(300).describe('Seconds that ranks wait for all of them to start'),
  rankTimeout: z.number().positive().default(600).describe('Seconds that a rank waits for the others in one exchange'),
  hungAfter: z
    .number()
    .positive()
    .default(30)
    .describe('Seconds without a sign of life after which a rank is taken for hung'),
  networkInterface: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      'Network interface or address of this machine for the exchange between ranks; null: that of its host name',
    ),
};

const rewards = {
  rewards: z
    .array(rewardEntry)
    .min(1)
    .describe(`Built-in reward (${builtInRewards.join(', ')}), or module path such as ./my-reward.mjs#score`),
};

const references = {
  referenceDevices: z
    .array(z.string().min(1))
    .min(1)
    .nullable()
    .default(null)
    .describe('Where the reference policy of each rank of a machine is kept, by local rank; null: beside the policy'),
};

const rollouts = {
  engine: engineSource
    .nullable()
    .default(null)
    .describe(
      'Server that samples: kind (grpo, vllm, sglang), url, weightsDir (or weights), maxStaleness; null: this process',
    ),
};

const raif = z.strictObject({
  mix: z
    .strictObject({ maths: z.number().nonnegative(), instructions: z.number().nonnegative() })
    .nullable()
    .default(null)
    .describe('Parts of maths and of instructions; null: all rows'),
  maxPromptTokens: z.int().positive().nullable().default(null).describe('Longer prompts are left out'),
  maxDemonstrationTokens: z.int().positive().nullable().default(null).describe('Longer demonstrations are left out'),
  referenceModel: z
    .string()
    .default('qwen2.5-7B-Instruct')
    .describe('Model whose counts of met constraints are the reference'),
  skipInvalid: z.boolean().default(false).describe('Leave rows out that cannot be used, instead of ending'),
  benchmark: z.array(z.string()).default([]).describe('Files of benchmarks to look for in the prompts'),
  overlapWords: z.int().positive().default(13).describe('Words in a row that count as an overlap'),
});

const recipe = {
  demonstrations: z.array(z.string().min(1)).default([]).describe('JSONL file with expert replies, for sftCoefficient'),
  raif: raif.nullable().default(null).describe("Read the files in RAIF's format; an object, in a YAML file"),
};

export type RaifSource = z.output<typeof raif>;

export const trainSources = z.strictObject({
  ...sources,
  ...recipe,
  ...rewards,
  ...rollouts,
  ...machine,
  ...references,
});
export const sftSources = z.strictObject({ ...sources, ...machine });
export const trainRunSchema = z.strictObject({ ...trainSources.shape, ...grpoConfigSchema.shape });
export const sftRunSchema = z.strictObject({ ...sftSources.shape, ...sftConfigSchema.shape });

export type TrainRun = z.output<typeof trainRunSchema>;
export type SFTRun = z.output<typeof sftRunSchema>;

const absolutePath = (value: unknown, base: string) => (typeof value === 'string' ? resolve(base, value) : value);

export const pathOptions: PathOptions = {
  model: absolutePath,
  dataset: absolutePath,
  evalDataset: absolutePath,
  outputDir: absolutePath,
  demonstrations: absolutePath,
  raif: (value, base) => {
    const { benchmark } = (value ?? {}) as { benchmark?: unknown };
    if (!Array.isArray(benchmark)) return value;
    return { ...(value as object), benchmark: benchmark.map((path) => absolutePath(path, base)) };
  },
  rewards: resolveRewardPath,
  engine: (value, base) => {
    const { weightsDir } = (value ?? {}) as { weightsDir?: unknown };
    return weightsDir === undefined ? value : { ...(value as object), weightsDir: absolutePath(weightsDir, base) };
  },
};

/** One file or reward may stand where a list is expected. */
export function withLists(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const lists = ['dataset', 'evalDataset', 'demonstrations', 'rewards', 'devices', 'referenceDevices'];
  const asList = (value: unknown) => (Array.isArray(value) || value === null || value === undefined ? value : [value]);
  return { ...values, ...Object.fromEntries(lists.filter((n) => n in values).map((n) => [n, asList(values[n])])) };
}
