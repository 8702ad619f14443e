import { z } from 'zod';
import { FileFormatError } from '../errors.js';
import { CausalLM, type WeightDType } from '../models/causal-lm.js';
import { readHeader, writeSafetensors } from '../models/safetensors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import type { AdamW } from './optimizer.js';

/**
 * A checkpoint is a folder `checkpoint-<step>`: the model as transformers loads it, `optimizer.safetensors`, and
 * `trainer_state.json`. It is written under another name and renamed when everything is on disk, so that a folder of that
 * name is complete.
 */
const stateFile = 'trainer_state.json';
const optimizerFile = 'optimizer.safetensors';
const folderName = /^checkpoint-(\d+)$/;

const stateSchema = z.object({
  version: z.literal(1),
  trainer: z.enum(['grpo', 'sft']),
  /** Optimiser updates, and those of them that changed the weights. */
  step: z.int().nonnegative(),
  optimizerUpdates: z.int().nonnegative(),
  totalSteps: z.int().nonnegative().nullable(),
  /** Tokens seen, prompts included. */
  numTokens: z.number().nonnegative(),
  /** Rows of the data set; null without one. */
  datasetLength: z.int().nullable(),
  sampler: z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() }).nullable(),
  /** What the trainer adds: seeds drawn so far, rollouts that wait for their update. */
  extra: z.record(z.string(), z.unknown()),
  config: z.record(z.string(), z.unknown()),
  /** Bytes of each other file of the folder. */
  files: z.record(z.string(), z.int().nonnegative()),
});

export type CheckpointState = z.output<typeof stateSchema>;

/** Writes `folder` whole or not at all. A checkpoint of that name from an earlier run is replaced. */
export async function saveCheckpoint(
  folder: string,
  policy: CausalLM,
  optimizer: AdamW,
  state: Omit<CheckpointState, 'version' | 'files' | 'optimizerUpdates'>,
  files: FileSystem = fileSystem(),
): Promise<void> {
  const partial = `${folder}.partial`;
  await files.remove(partial);
  try {
    await policy.save(partial, files);
    const tensors = Object.entries(optimizer.tensors).map(([name, tensor]) => ({
      name,
      dtype: tensor.dtype,
      shape: tensor.shape,
      read: () => tensor.readBytes(),
    }));
    await writeSafetensors(`${partial}/${optimizerFile}`, tensors, {}, files);
    const sizes = await Promise.all(
      (await files.list(partial)).map(async (name) => [name, await files.size(`${partial}/${name}`)] as const),
    );
    const whole: CheckpointState = {
      version: 1,
      ...state,
      optimizerUpdates: optimizer.updates,
      files: Object.fromEntries(sizes),
    };
    await files.writeAtomic(`${partial}/${stateFile}`, `${JSON.stringify(whole)}\n`);
    await files.remove(folder);
    await files.rename(partial, folder);
  } catch (error) {
    await files.remove(partial);
    throw error;
  }
}

/** Reads and checks the state of a checkpoint: every file must be there with its size. */
export async function readCheckpoint(folder: string, files: FileSystem = fileSystem()): Promise<CheckpointState> {
  const path = `${folder}/${stateFile}`;
  const result = stateSchema.safeParse(await readJsonObject(path, files));
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new FileFormatError(path, `not the state of a checkpoint: ${issue.path.join('.')}: ${issue.message}`);
  }
  for (const [name, expected] of Object.entries(result.data.files)) {
    const file = `${folder}/${name}`;
    if (!(await files.exists(file))) throw new FileFormatError(file, 'this file of the checkpoint is missing');
    const size = await files.size(file);
    if (size !== expected)
      throw new FileFormatError(file, `the file has ${size} bytes, the checkpoint wrote ${expected}`);
  }
  return result.data;
}

/** Puts the weights and the optimiser of a checkpoint in place. Nothing is changed when a file cannot be used. */
export async function loadCheckpoint(
  folder: string,
  policy: CausalLM,
  optimizer: AdamW,
  { optimizerUpdates }: CheckpointState,
  files: FileSystem = fileSystem(),
): Promise<void> {
  const path = `${folder}/${optimizerFile}`;
  const stored = await readHeader(path, files);
  const wanted = Object.entries(optimizer.tensors);
  for (const [name, tensor] of wanted) {
    const found = stored.get(name);
    if (!found) throw new FileFormatError(path, `${name} is missing (is the model of the same dtype?)`);
    if (found.dtype !== tensor.dtype || found.shape.length !== 1 || found.shape[0] !== tensor.size) {
      const got = `${found.dtype} [${found.shape.join(',')}]`;
      throw new FileFormatError(path, `${name} is ${got}, the model needs ${tensor.dtype} [${tensor.size}]`);
    }
  }
  const dtype = policy.parameters.dtype as WeightDType;
  const saved = await CausalLM.load(folder, { device: policy.device, dtype, files });
  try {
    policy.parameters.copyFrom(saved.parameters);
  } finally {
    saved.dispose();
  }
  for (const [name, tensor] of wanted) {
    const { offset, bytes } = stored.get(name)!;
    tensor.writeBytes(await files.readRange(path, offset, bytes));
  }
  optimizer.restore(optimizerUpdates);
}

/** The checkpoint of the highest step in a run's folder; null without one. */
export async function latestCheckpoint(outputDir: string, files: FileSystem = fileSystem()): Promise<string | null> {
  const newest = (await checkpoints(outputDir, files)).at(-1);
  return newest === undefined ? null : `${outputDir}/${newest}`;
}

/** Deletes all but the newest `keep` checkpoints. */
export async function pruneCheckpoints(
  outputDir: string,
  keep: number,
  files: FileSystem = fileSystem(),
): Promise<void> {
  for (const name of (await checkpoints(outputDir, files)).slice(0, -keep)) await files.remove(`${outputDir}/${name}`);
}

/** Names of the complete checkpoints, by step. */
async function checkpoints(outputDir: string, files: FileSystem): Promise<string[]> {
  if (!(await files.exists(outputDir))) return [];
  const steps = (await files.list(outputDir)).flatMap((name) => folderName.exec(name)?.[1] ?? []);
  return steps
    .map(Number)
    .toSorted((a, b) => a - b)
    .map((step) => `checkpoint-${step}`);
}
