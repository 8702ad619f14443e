import { resolve } from 'node:path';
import { z } from 'zod';
import { grpoConfigSchema, sftConfigSchema } from '../trainer/config.js';
import type { PathOptions } from './config-source.js';
import { resolveRewardPath, rewardEntry } from './rewards.js';

/** What `grpo train` and `grpo sft` need beside the options of their trainer: the model, the data, the machine. */
const sources = {
  model: z.string().min(1).describe('Folder of the model, as Hugging Face writes it'),
  dataset: z.array(z.string().min(1)).min(1).describe('JSONL file with the training data'),
  evalDataset: z.array(z.string().min(1)).default([]).describe('JSONL file with held-out data'),
};

const machine = {
  device: z.string().default('auto').describe('Where to compute: auto, cpu, cuda, cuda:1, webgpu'),
  dtype: z.enum(['f32', 'bf16']).default('f32').describe('Number format of the weights'),
  threads: z.int().positive().nullable().default(null).describe('Threads of the CPU kernels; null: all'),
};

const rewards = {
  rewards: z
    .array(rewardEntry)
    .min(1)
    .describe('Name of a built-in reward, or module path such as ./my-reward.mjs#score'),
};

export const trainSources = z.strictObject({ ...sources, ...rewards, ...machine });
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
  rewards: resolveRewardPath,
};

/** One file or reward may stand where a list is expected. */
export function withLists(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const lists = ['dataset', 'evalDataset', 'rewards'];
  const asList = (value: unknown) => (Array.isArray(value) || value === null || value === undefined ? value : [value]);
  return { ...values, ...Object.fromEntries(lists.filter((n) => n in values).map((n) => [n, asList(values[n])])) };
}
