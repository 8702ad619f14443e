import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { ProcessGroup } from '../../../src/distributed/process-group.js';
import { singleProcessGroup } from '../../../src/distributed/single-process-group.js';
import { FileFormatError } from '../../../src/errors.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import type { FileSystem } from '../../../src/platform/files.js';
import { nodeFileSystem } from '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import {
  CheckpointError,
  type CheckpointParts,
  loadCheckpoint,
  readCheckpoint,
  readState,
  saveCheckpoint,
} from '../../../src/trainer/checkpoint.js';
import {
  latestCheckpoint,
  pruneCheckpoints,
  removePartialCheckpoints,
  type UnusableCheckpoint,
} from '../../../src/trainer/checkpoint-folders.js';
import { AdamW } from '../../../src/trainer/optimizer.js';
import { tinyPolicy } from '../../tiny-model.js';
import { valueGroups } from '../../value-groups.js';

let device: Device;
let folder: string;
let policy: CausalLM;
let optimizer: AdamW;
let parts: CheckpointParts;
const options = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 };
const state = {
  trainer: 'grpo',
  step: 4,
  skippedUpdates: 0,
  totalSteps: 10,
  numTokens: 123,
  datasetLength: 6,
  sampler: { epoch: 1, position: 2 },
  extra: { used: 3 },
  config: { seed: 1 },
} as const;

beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'checkpoint-test-'));
  policy = tinyPolicy({ device, seed: 1 });
  optimizer = new AdamW(policy.parameters, options);
  parts = { policy, optimizer, group: singleProcessGroup(device) };
  await saveCheckpoint(join(folder, 'checkpoint-4'), parts, state);
});
afterAll(() => {
  optimizer.dispose();
  policy.dispose();
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

/** A copy of the checkpoint with something done to it. */
function damaged(name: string, damage: (path: string) => void): string {
  const copy = join(folder, 'damaged', name);
  cpSync(join(folder, 'checkpoint-4'), copy, { recursive: true });
  damage(copy);
  return copy;
}

async function errorOf(promise: Promise<unknown>): Promise<FileFormatError> {
  const error = await promise.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(FileFormatError);
  return error as FileFormatError;
}

describe('a checkpoint', () => {
  it('gives back its state', async () => {
    const read = await readCheckpoint(join(folder, 'checkpoint-4'));
    expect(read).toMatchObject({ ...state, optimizerUpdates: 0 });
    expect(Object.keys(read.files)).toContain('optimizer.safetensors');
  });

  it.each(['model.safetensors', 'optimizer.safetensors', 'tokenizer.json'])(
    'is refused with a cut %s',
    async (file) => {
      const path = damaged(`cut-${file}`, (copy) => truncateSync(join(copy, file), 100));
      const error = await errorOf(readCheckpoint(path));
      expect(error.message).toMatch(/has 100 bytes, the checkpoint wrote \d+/);
      expect(error.file).toBe(`${path}/${file}`);
    },
  );

  it('is refused without one of its files', async () => {
    const path = damaged('missing', (copy) => rmSync(join(copy, 'optimizer.safetensors')));
    expect((await errorOf(readCheckpoint(path))).message).toMatch(/optimizer\.safetensors: .*is missing/);
    await expect(errorOf(readCheckpoint(join(folder, 'nowhere')))).resolves.toBeDefined();
  });

  it.each([
    ['half of its JSON', (text: string) => text.slice(0, text.length / 2), /not JSON/],
    ['another content', () => '{"version":1}', /not the state of a checkpoint: trainer/],
    ['another version', (text: string) => text.replace('"version":2', '"version":3'), /version/],
    ['a negative step', (text: string) => text.replace('"step":4', '"step":-4'), /step/],
  ])('is refused with %s in its state', async (name, change, expected) => {
    const path = damaged(name, (copy) => {
      const file = join(copy, 'trainer_state.json');
      writeFileSync(file, change(readFileSync(file, 'utf8')));
    });
    expect((await errorOf(readCheckpoint(path))).message).toMatch(expected);
  });

  it('is refused with a header that lies, and changes nothing', async () => {
    const path = damaged('header', (copy) => {
      const file = join(copy, 'optimizer.safetensors');
      const bytes = readFileSync(file);
      writeFileSync(file, Buffer.from(bytes.toString('latin1').replace('first_moment', 'first_mement'), 'latin1'));
    });
    const before = await policy.parameters.flat.readBytes();
    // As it would be in a checkpoint that was written wrong: its checksums fit.
    const read = await readState(path);
    expect((await errorOf(loadCheckpoint(path, parts, read))).message).toMatch(/first_moment is missing/);
    expect(await policy.parameters.flat.readBytes()).toEqual(before);
  });

  it('is refused by a model of another size', async () => {
    const other = tinyPolicy({ device, seed: 1 }, { intermediateSize: 32 });
    const otherOptimizer = new AdamW(other.parameters, options);
    const path = join(folder, 'checkpoint-4');
    const error = await errorOf(
      loadCheckpoint(path, { policy: other, optimizer: otherOptimizer }, await readCheckpoint(path)),
    );
    expect(error.message).toMatch(/first_moment is f32 \[\d+\], the model needs f32 \[\d+\]/);
    otherOptimizer.dispose();
    other.dispose();
  });

  it('is refused by a model of another dtype', async () => {
    const other = tinyPolicy({ device, seed: 1, dtype: 'bf16' });
    const otherOptimizer = new AdamW(other.parameters, options);
    const path = join(folder, 'checkpoint-4');
    const error = await errorOf(
      loadCheckpoint(path, { policy: other, optimizer: otherOptimizer }, await readCheckpoint(path)),
    );
    expect(error.message).toMatch(/master_weights is missing \(is the model of the same dtype\?\)/);
    otherOptimizer.dispose();
    other.dispose();
  });
});

describe('writing', () => {
  it('leaves no checkpoint behind when it fails half-way, and keeps the one that was there', async () => {
    const outputDir = join(folder, 'failing');
    await saveCheckpoint(join(outputDir, 'checkpoint-1'), parts, { ...state, step: 1 });
    const full: FileSystem = {
      ...nodeFileSystem,
      writeAtomic: (path, content) =>
        path.endsWith('optimizer.safetensors')
          ? Promise.reject(new Error('no space left on device'))
          : nodeFileSystem.writeAtomic(path, content),
    };
    for (const step of [1, 2]) {
      const saving = saveCheckpoint(
        join(outputDir, `checkpoint-${step}`),
        { ...parts, files: full },
        { ...state, step },
      );
      const error = await saving.catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as Error).message).toMatch(/checkpoint-[12] was not written, earlier ones are kept: no space left/);
    }
    expect(await readdir(outputDir)).toEqual(['checkpoint-1']);
    expect((await readCheckpoint(join(outputDir, 'checkpoint-1'))).step).toBe(1);
  });

  it('replaces a checkpoint of the same step', async () => {
    const path = join(folder, 'again', 'checkpoint-1');
    for (const numTokens of [1, 2]) await saveCheckpoint(path, parts, { ...state, numTokens });
    expect((await readCheckpoint(path)).numTokens).toBe(2);
  });
});

/** A change of one bit that leaves the size as it is. */
function flipBit(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at < 0 ? bytes.length + at : at]! ^= 1;
  writeFileSync(path, bytes);
}

describe('damage that leaves the size as it is', () => {
  it.each(['model.safetensors', 'optimizer.safetensors', 'tokenizer.json'])('is found in %s', async (file) => {
    const path = damaged(`flipped-${file}`, (copy) => flipBit(join(copy, file), -5));
    expect((await errorOf(readCheckpoint(path))).message).toMatch(/its SHA-256 differs/);
  });

  it('is found in the state', async () => {
    const path = damaged('flipped-state', (copy) => {
      const file = join(copy, 'trainer_state.json');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"numTokens":123', '"numTokens":124'));
    });
    expect((await errorOf(readCheckpoint(path))).message).toMatch(/trainer_state\.json: the state is not what/);
  });
});

describe('a checkpoint of version 1, with sizes and no checksums', () => {
  it('is still loaded', async () => {
    const path = damaged('version-1', (copy) => {
      const file = join(copy, 'trainer_state.json');
      const {
        checksum: _,
        worldSize: __,
        skippedUpdates: ___,
        configHash: ____,
        ...json
      } = JSON.parse(readFileSync(file, 'utf8'));
      const files = Object.entries(json.files as Record<string, { bytes: number }>);
      json.files = Object.fromEntries(files.map(([name, { bytes }]) => [name, bytes]));
      writeFileSync(file, JSON.stringify({ ...json, version: 1 }));
    });
    const read = await readCheckpoint(path);
    expect(read).toMatchObject({ version: 1, step: 4, worldSize: 1 });
    await loadCheckpoint(path, parts, read);
    truncateSync(join(path, 'tokenizer.json'), 10);
    expect((await errorOf(readCheckpoint(path))).message).toMatch(/has 10 bytes/);
  });
});

describe('ranks', () => {
  /** Optimiser states of `worldSize` ranks with the values 0, 1, 2, ... of the whole. */
  function states(worldSize: number, zeroStage: 0 | 1): { group: ProcessGroup; optimizer: AdamW }[] {
    return valueGroups(worldSize, device).map((group) => {
      const optimizer = new AdamW(policy.parameters, { ...options, zeroStage }, group);
      const { offset, count } = optimizer.shard;
      for (const [k, tensor] of Object.values(optimizer.tensors).entries()) {
        tensor.write(Float32Array.from({ length: count }, (_, i) => offset + i + k));
      }
      return { group, optimizer };
    });
  }

  const cases = [1, 2, 3].flatMap((from) =>
    [1, 2, 4].flatMap((to) => ([0, 1] as const).map((stage) => [from, to, stage] as const)),
  );
  it.each(cases)('%i write what %i read, with zeroStage %i', async (from, to, stage) => {
    const path = join(folder, `ranks-${from}-${to}-${stage}`, 'checkpoint-1');
    const writers = states(from, stage);
    await Promise.all(writers.map((writer) => saveCheckpoint(path, { policy, ...writer }, { ...state, step: 1 })));
    const read = await readCheckpoint(path);
    expect(read.worldSize).toBe(from);
    const readers = states(to, stage);
    for (const { optimizer } of readers) {
      for (const tensor of Object.values(optimizer.tensors)) tensor.write(new Float32Array(tensor.size).fill(-1));
      await loadCheckpoint(path, { policy, optimizer }, read);
      const { offset, count } = optimizer.shard;
      for (const [k, tensor] of Object.values(optimizer.tensors).entries()) {
        expect(await tensor.read()).toEqual(Float32Array.from({ length: count }, (_, i) => offset + i + k));
      }
    }
    for (const { optimizer } of [...writers, ...readers]) optimizer.dispose();
  });

  it('all throw when one of them cannot write, and leave nothing behind', async () => {
    const outputDir = join(folder, 'one-fails');
    const writers = states(3, 1);
    const full: FileSystem = {
      ...nodeFileSystem,
      writeAtomic: (path, content) =>
        path.includes('-00002-of-')
          ? Promise.reject(new Error('no space left on device'))
          : nodeFileSystem.writeAtomic(path, content),
    };
    const results = await Promise.allSettled(
      writers.map((writer) =>
        saveCheckpoint(join(outputDir, 'checkpoint-1'), { policy, ...writer, files: full }, { ...state, step: 1 }),
      ),
    );
    for (const { optimizer } of writers) optimizer.dispose();
    const messages = results.map((result) => String((result as PromiseRejectedResult).reason));
    expect(messages[0]).toMatch(/CheckpointError: .*: Rank 1 failed: no space left on device/);
    expect(messages[1]).toMatch(/CheckpointError: .*: no space left on device/);
    expect(messages[2]).toMatch(/CheckpointError: .*: Rank 1 failed: no space left on device/);
    expect(await readdir(outputDir)).toEqual([]);
  });
});

describe('a full disk', () => {
  const isRoot = process.getuid?.() === 0 && process.platform === 'linux';
  it('is an error that keeps the checkpoint that was there', async ({ skip }) => {
    const disk = join(folder, 'small-disk');
    await mkdir(disk);
    const mounted = isRoot && spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk]).status === 0;
    if (!mounted) skip('only root can mount a small disk');
    try {
      await saveCheckpoint(join(disk, 'checkpoint-1'), parts, { ...state, step: 1 });
      let step = 2;
      let error: unknown;
      for (; step < 10 && !error; step++) {
        error = await saveCheckpoint(join(disk, `checkpoint-${step}`), parts, { ...state, step }).catch((e) => e);
      }
      expect(error).toBeInstanceOf(CheckpointError);
      expect((error as CheckpointError).message).toMatch(/earlier ones are kept: .*ENOSPC/);
      expect((await readdir(disk)).filter((name) => !/^checkpoint-\d$/.test(name))).toEqual([]);
      expect(await latestCheckpoint(disk)).toBe(`${disk}/checkpoint-${step - 2}`);
    } finally {
      spawnSync('umount', [disk]);
    }
  });
});

describe('latestCheckpoint', () => {
  /** Copies of the checkpoint of the step 4 under other names. */
  function run(name: string, steps: readonly number[]): string {
    const outputDir = join(folder, name);
    for (const step of steps) {
      cpSync(join(folder, 'checkpoint-4'), join(outputDir, `checkpoint-${step}`), { recursive: true });
    }
    return outputDir;
  }

  it('orders by number and sees complete checkpoints only', async () => {
    const outputDir = run('run', [9, 10]);
    expect(await latestCheckpoint(join(folder, 'no run'))).toBeNull();
    for (const name of ['checkpoint-11.partial', 'checkpoint-best', 'logs']) await mkdir(join(outputDir, name));
    expect(await latestCheckpoint(outputDir)).toBe(`${outputDir}/checkpoint-10`);
    await pruneCheckpoints(outputDir, { step: 10, keep: 1 });
    const left = ['checkpoint-10', 'checkpoint-11.partial', 'checkpoint-best', 'logs'];
    expect((await readdir(outputDir)).toSorted()).toEqual(left);
    await removePartialCheckpoints(outputDir);
    expect((await readdir(outputDir)).toSorted()).toEqual(['checkpoint-10', 'checkpoint-best', 'logs']);
  });

  it.each([
    ['cut', (path: string) => truncateSync(join(path, 'model.safetensors'), 1000), /has 1000 bytes/],
    ['corrupted', (path: string) => flipBit(join(path, 'optimizer.safetensors'), -1), /SHA-256 differs/],
    ['missing', (path: string) => rmSync(join(path, 'trainer_state.json')), /no such file/],
  ])('goes back to the one before when a file is %s, and says why', async (name, damage, why) => {
    const outputDir = run(`fallback-${name}`, [1, 2, 3]);
    damage(join(outputDir, 'checkpoint-3'));
    const unusable: UnusableCheckpoint[] = [];
    const found = await latestCheckpoint(outputDir, { onUnusable: (one) => unusable.push(one) });
    expect(found).toBe(`${outputDir}/checkpoint-2`);
    expect(unusable.map((one) => one.folder)).toEqual([`${outputDir}/checkpoint-3`]);
    expect(unusable[0]!.error.message).toMatch(why);
  });

  it('leaves none with the name of a whole one when it is interrupted while it deletes', async () => {
    const outputDir = run('interrupted', [1, 2, 3]);
    const remove = async (path: string) => {
      if (!existsSync(path)) return;
      rmSync(join(path, 'trainer_state.json'));
      throw new Error('interrupted');
    };
    const pruned = pruneCheckpoints(outputDir, { step: 3, keep: 2 }, { ...nodeFileSystem, remove });
    await expect(pruned).rejects.toThrow('interrupted');
    expect((await readdir(outputDir)).toSorted()).toEqual(['checkpoint-1.partial', 'checkpoint-2', 'checkpoint-3']);
    await removePartialCheckpoints(outputDir);
    expect((await readdir(outputDir)).toSorted()).toEqual(['checkpoint-2', 'checkpoint-3']);
  });

  it('keeps what a run that went back writes, rather than what it could not use', async () => {
    const outputDir = run('went-back', [1, 2, 8]);
    await pruneCheckpoints(outputDir, { step: 2, keep: 1 });
    expect((await readdir(outputDir)).toSorted()).toEqual(['checkpoint-2', 'checkpoint-8']);
  });
});
