import { z } from 'zod';
import type { ProcessGroup } from '../distributed/process-group.js';
import { CollectiveError, FileFormatError, GrpoError } from '../errors.js';
import { CausalLM, type WeightDType } from '../models/causal-lm.js';
import { readHeader, type StoredTensor, writeSafetensors } from '../models/safetensors.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import { readJsonObject } from '../platform/read-json.js';
import type { Tensor } from '../tensor.js';
import { hashText } from './hash.js';
import type { AdamW } from './optimizer.js';
import { togetherOrNot } from './ranks.js';

/**
 * A checkpoint is a folder `checkpoint-<step>`: the model as transformers loads it, the state of the optimiser in one file a
 * rank, and `trainer_state.json`, which says what the other files are. It is written under another name and renamed when
 * everything is on disk.
 */
const stateFile = 'trainer_state.json';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const stateSchema = z.object({
  /** 1 had sizes of files, and no checksums. */
  version: z.literal([1, 2]),
  trainer: z.enum(['grpo', 'sft']),
  /** Optimiser updates, and those of them that changed the weights. */
  step: z.int().nonnegative(),
  optimizerUpdates: z.int().nonnegative(),
  /** Updates in a row that were skipped because their gradients were not finite. */
  skippedUpdates: z.int().nonnegative().default(0),
  totalSteps: z.int().nonnegative().nullable(),
  /** Ranks that wrote it. */
  worldSize: z.int().positive().default(1),
  /** Tokens seen, prompts included. */
  numTokens: z.number().nonnegative(),
  /** Rows of the data set; null without one. */
  datasetLength: z.int().nullable(),
  /** The next row of the data. With `config.seed` and the generations in `extra` this is all that is random in a run. */
  sampler: z.object({ epoch: z.int().nonnegative(), position: z.int().nonnegative() }).nullable(),
  /** What the trainer adds: seeds drawn so far, rollouts that wait for their update. */
  extra: z.record(z.string(), z.unknown()),
  config: z.record(z.string(), z.unknown()),
  /** SHA-256 of the configuration, by which ranks and runs tell theirs apart. */
  configHash: z.string().nullable().default(null),
  /** Bytes and SHA-256 of each other file of the folder. */
  files: z.record(z.string(), z.union([z.int().nonnegative(), z.object({ bytes: z.int().nonnegative(), sha256 })])),
  /** SHA-256 of this state without this field. */
  checksum: sha256.optional(),
});

export type CheckpointState = z.output<typeof stateSchema>;

/** What the trainer knows; the rest of the state is found out while the checkpoint is written. */
export type TrainingState = Omit<
  CheckpointState,
  'version' | 'files' | 'optimizerUpdates' | 'worldSize' | 'checksum' | 'configHash'
> & { configHash?: string | null };

/** A checkpoint that could not be written. The earlier ones are as they were, and nothing half-written stands in the way. */
export class CheckpointError extends GrpoError {
  readonly folder: string;

  constructor(folder: string, problem: string, options?: ErrorOptions) {
    super('GRPO_CHECKPOINT', `The checkpoint ${folder} was not written, earlier ones are kept: ${problem}`, options);
    this.folder = folder;
  }
}

export interface CheckpointParts {
  policy: CausalLM;
  optimizer: AdamW;
  group: ProcessGroup;
  files?: FileSystem;
}

/**
 * Writes `folder` whole or not at all; all ranks call it. A checkpoint of that name from an earlier run is replaced.
 * Throws a `CheckpointError` on every rank when one of them fails.
 */
export async function saveCheckpoint(
  folder: string,
  { policy, optimizer, group, files = fileSystem() }: CheckpointParts,
  state: TrainingState,
): Promise<void> {
  const { rank, worldSize } = group;
  const partial = `${folder}.partial`;
  const together = async <T>(work: () => Promise<T>): Promise<T[]> => {
    try {
      return await togetherOrNot(group, work);
    } catch (error) {
      if (error instanceof CollectiveError) throw error;
      if (rank === 0) await files.remove(partial).catch(() => {});
      throw new CheckpointError(folder, (error as Error).message, { cause: error });
    }
  };
  await together(async () => {
    if (rank !== 0) return;
    await files.remove(partial);
    await files.makeFolder(partial);
  });
  const described = await together(async () => {
    const name = optimizerFile(rank, worldSize);
    await writeOptimizer(`${partial}/${name}`, optimizer, group, files);
    if (rank === 0) await policy.save(partial, files);
    const written = rank === 0 ? (await files.list(partial)).filter((file) => !/^optimizer/.test(file)) : [];
    return Promise.all([...written, name].map((file) => describeFile(partial, file, files)));
  });
  await together(async () => {
    if (rank !== 0) return;
    const whole = { version: 2, ...state, optimizerUpdates: optimizer.updates, worldSize };
    const content = { ...whole, files: Object.fromEntries(described.flat()) };
    const checksum = await hashText(JSON.stringify(content));
    await files.writeAtomic(`${partial}/${stateFile}`, `${JSON.stringify({ ...content, checksum })}\n`);
    await files.remove(folder);
    await files.rename(partial, folder);
  });
}

/** Reads the state of a checkpoint and checks every file of the folder: there, with its size and its checksum. */
export async function readCheckpoint(folder: string, files: FileSystem = fileSystem()): Promise<CheckpointState> {
  const state = await readState(folder, files);
  for (const [name, expected] of Object.entries(state.files)) {
    const file = `${folder}/${name}`;
    if (!(await files.exists(file))) throw new FileFormatError(file, 'this file of the checkpoint is missing');
    const size = await files.size(file);
    const bytes = typeof expected === 'number' ? expected : expected.bytes;
    if (size !== bytes) throw new FileFormatError(file, `the file has ${size} bytes, the checkpoint wrote ${bytes}`);
    if (typeof expected !== 'number' && (await files.sha256(file)) !== expected.sha256) {
      throw new FileFormatError(file, 'the content is not what the checkpoint wrote: its SHA-256 differs');
    }
  }
  return state;
}

/** The state alone. */
export async function readState(folder: string, files: FileSystem = fileSystem()): Promise<CheckpointState> {
  const path = `${folder}/${stateFile}`;
  const json = await readJsonObject(path, files);
  const result = stateSchema.safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new FileFormatError(path, `not the state of a checkpoint: ${issue.path.join('.')}: ${issue.message}`);
  }
  const { checksum, ...content } = json;
  if (result.data.version > 1 && checksum !== (await hashText(JSON.stringify(content)))) {
    throw new FileFormatError(path, 'the state is not what the checkpoint wrote: its SHA-256 differs');
  }
  return result.data;
}

/**
 * Puts the weights and the optimiser of a checkpoint in place, whatever number of ranks wrote it. Nothing is changed when a
 * file cannot be used.
 */
export async function loadCheckpoint(
  folder: string,
  { policy, optimizer, files = fileSystem() }: Omit<CheckpointParts, 'group'>,
  { optimizerUpdates, worldSize }: CheckpointState,
): Promise<void> {
  const stored = await Promise.all(
    Array.from({ length: worldSize }, (_, r) => readHeader(`${folder}/${optimizerFile(r, worldSize)}`, files)),
  );
  const wanted = Object.entries(optimizer.tensors);
  const sources = wanted.map(([name, tensor]) => findParts(folder, name, tensor, stored, optimizer.count));
  const dtype = policy.parameters.dtype as WeightDType;
  const saved = await CausalLM.load(folder, { device: policy.device, dtype, files });
  try {
    policy.parameters.copyFrom(saved.parameters);
  } finally {
    saved.dispose();
  }
  for (const [i, [, tensor]] of wanted.entries()) {
    await readParts(tensor, optimizer.shard.offset, sources[i]!, files);
  }
  optimizer.restore(optimizerUpdates);
}

/** As model files are named: one file without numbers, several with. */
function optimizerFile(rank: number, worldSize: number): string {
  const digits = (n: number) => String(n).padStart(5, '0');
  return worldSize === 1
    ? 'optimizer.safetensors'
    : `optimizer-${digits(rank + 1)}-of-${digits(worldSize)}.safetensors`;
}

/** A rank's part of the optimiser state: an equal share of the elements, in the order of the ranks. */
async function writeOptimizer(
  path: string,
  optimizer: AdamW,
  { rank, worldSize }: ProcessGroup,
  files: FileSystem,
): Promise<void> {
  const { offset, count } = optimizer.shardOf(rank, worldSize);
  const views = Object.entries(optimizer.tensors).map(([name, tensor]) => ({
    name,
    view: tensor.view([count], offset - optimizer.shard.offset),
  }));
  const sources = views.map(({ name, view }) => ({
    name,
    dtype: view.dtype,
    shape: view.shape,
    read: () => view.readBytes(),
  }));
  try {
    await writeSafetensors(path, sources, {}, files);
  } finally {
    for (const { view } of views) view.dispose();
  }
}

/** A part of a vector in a file, and where in the vector it begins. */
interface StoredPart {
  begin: number;
  tensor: StoredTensor;
}

function findParts(
  folder: string,
  name: string,
  wanted: Tensor,
  stored: readonly Map<string, StoredTensor>[],
  count: number,
): StoredPart[] {
  const parts: StoredPart[] = [];
  let size = 0;
  for (const header of stored) {
    const tensor = header.get(name);
    if (!tensor) {
      const file = header.values().next().value?.file ?? folder;
      throw new FileFormatError(file, `${name} is missing (is the model of the same dtype?)`);
    }
    if (tensor.dtype !== wanted.dtype || tensor.shape.length !== 1) {
      const got = `${tensor.dtype} [${tensor.shape.join(',')}]`;
      throw new FileFormatError(tensor.file, `${name} is ${got}, the model needs ${wanted.dtype} [${count}]`);
    }
    parts.push({ begin: size, tensor });
    size += tensor.shape[0]!;
  }
  if (size !== count) {
    const { file } = parts[0]!.tensor;
    throw new FileFormatError(file, `${name} is ${wanted.dtype} [${size}], the model needs ${wanted.dtype} [${count}]`);
  }
  return parts;
}

/** Fills `target`, which begins at element `offset` of the whole vector, from the parts that overlap it. */
async function readParts(
  target: Tensor,
  offset: number,
  parts: readonly StoredPart[],
  files: FileSystem,
): Promise<void> {
  for (const { begin, tensor } of parts) {
    const from = Math.max(begin, offset);
    const to = Math.min(begin + tensor.shape[0]!, offset + target.size);
    if (from >= to) continue;
    const width = tensor.bytes / tensor.shape[0]!;
    const view = target.view([to - from], from - offset);
    try {
      const at = tensor.offset + (from - begin) * width;
      view.writeBytes(await files.readRange(tensor.file, at, (to - from) * width));
    } finally {
      view.dispose();
    }
  }
}

async function describeFile(folder: string, name: string, files: FileSystem) {
  const path = `${folder}/${name}`;
  return [name, { bytes: await files.size(path), sha256: await files.sha256(path) }] as const;
}
