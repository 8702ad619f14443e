import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { FileFormatError } from '../../../src/errors.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import type { FileSystem } from '../../../src/platform/files.js';
import { nodeFileSystem } from '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import {
  latestCheckpoint,
  loadCheckpoint,
  pruneCheckpoints,
  readCheckpoint,
  saveCheckpoint,
} from '../../../src/trainer/checkpoint.js';
import { AdamW } from '../../../src/trainer/optimizer.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
let folder: string;
let policy: CausalLM;
let optimizer: AdamW;
const options = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 };
const state = {
  trainer: 'grpo',
  step: 4,
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
  await saveCheckpoint(join(folder, 'checkpoint-4'), policy, optimizer, state);
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
    ['another version', (text: string) => text.replace('"version":1', '"version":2'), /version/],
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
    const read = await readCheckpoint(path);
    expect((await errorOf(loadCheckpoint(path, policy, optimizer, read))).message).toMatch(/first_moment is missing/);
    expect(await policy.parameters.flat.readBytes()).toEqual(before);
  });

  it('is refused by a model of another size', async () => {
    const other = tinyPolicy({ device, seed: 1 }, { intermediateSize: 32 });
    const otherOptimizer = new AdamW(other.parameters, options);
    const path = join(folder, 'checkpoint-4');
    const error = await errorOf(loadCheckpoint(path, other, otherOptimizer, await readCheckpoint(path)));
    expect(error.message).toMatch(/first_moment is f32 \[\d+\], the model needs f32 \[\d+\]/);
    otherOptimizer.dispose();
    other.dispose();
  });

  it('is refused by a model of another dtype', async () => {
    const other = tinyPolicy({ device, seed: 1, dtype: 'bf16' });
    const otherOptimizer = new AdamW(other.parameters, options);
    const path = join(folder, 'checkpoint-4');
    const error = await errorOf(loadCheckpoint(path, other, otherOptimizer, await readCheckpoint(path)));
    expect(error.message).toMatch(/master_weights is missing \(is the model of the same dtype\?\)/);
    otherOptimizer.dispose();
    other.dispose();
  });
});

describe('writing', () => {
  it('leaves no checkpoint behind when it fails half-way, and keeps the one that was there', async () => {
    const outputDir = join(folder, 'failing');
    await saveCheckpoint(join(outputDir, 'checkpoint-1'), policy, optimizer, { ...state, step: 1 });
    const full: FileSystem = {
      ...nodeFileSystem,
      writeAtomic: (path, content) =>
        path.endsWith('optimizer.safetensors')
          ? Promise.reject(new Error('no space left on device'))
          : nodeFileSystem.writeAtomic(path, content),
    };
    for (const step of [1, 2]) {
      const saving = saveCheckpoint(join(outputDir, `checkpoint-${step}`), policy, optimizer, { ...state, step }, full);
      await expect(saving).rejects.toThrow('no space left');
    }
    expect(await readdir(outputDir)).toEqual(['checkpoint-1']);
    expect((await readCheckpoint(join(outputDir, 'checkpoint-1'))).step).toBe(1);
  });

  it('replaces a checkpoint of the same step', async () => {
    const path = join(folder, 'again', 'checkpoint-1');
    for (const numTokens of [1, 2]) await saveCheckpoint(path, policy, optimizer, { ...state, numTokens });
    expect((await readCheckpoint(path)).numTokens).toBe(2);
  });
});

describe('latestCheckpoint', () => {
  it('orders by number and sees complete checkpoints only', async () => {
    const run = join(folder, 'run');
    expect(await latestCheckpoint(run)).toBeNull();
    for (const name of ['checkpoint-9', 'checkpoint-10', 'checkpoint-11.partial', 'checkpoint-best', 'logs']) {
      await mkdir(join(run, name), { recursive: true });
    }
    expect(await latestCheckpoint(run)).toBe(`${run}/checkpoint-10`);
    await pruneCheckpoints(run, 1);
    expect((await readdir(run)).toSorted()).toEqual([
      'checkpoint-10',
      'checkpoint-11.partial',
      'checkpoint-best',
      'logs',
    ]);
  });
});
