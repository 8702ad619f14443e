import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { DisposedError, FileFormatError, GrpoError, InvalidArgumentError } from '../../../src/errors.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import { readHeader, writeSafetensors } from '../../../src/models/safetensors.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';
import { families, fixtureFolder } from './fixtures.js';

let device: Device;
let folder: string;
beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'causal-lm-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const sequences = [
  { promptIds: [5, 6, 7], completionIds: [8, 9] },
  { promptIds: [4], completionIds: [10, 11, 12] },
];

describe('save', () => {
  it.each(families)('writes a %s folder that holds the same weights and settings', async (name) => {
    const policy = await CausalLM.load(fixtureFolder(name), { device });
    const saved = join(folder, name);
    await policy.save(saved);
    const again = await CausalLM.load(saved, { device });
    expect(again.config).toEqual(policy.config);
    expect(again.stopTokenIds).toEqual(policy.stopTokenIds);
    expect(again.tokenizer.files()).toEqual(policy.tokenizer.files());
    expect(await again.parameters.flat.readBytes()).toEqual(await policy.parameters.flat.readBytes());
    const tensors = (from: string) => readHeader(join(from, 'model.safetensors')).then((t) => [...t.keys()].toSorted());
    expect(await tensors(saved)).toEqual(await tensors(fixtureFolder(name)));
    expect(readdirSync(saved).filter((file) => file.endsWith('.tmp'))).toEqual([]);
    policy.dispose();
    again.dispose();
  });

  it('writes the dtype of the weights', async () => {
    const policy = await CausalLM.load(fixtureFolder('llama'), { device, dtype: 'bf16' });
    await policy.save(join(folder, 'as-bf16'));
    expect(JSON.parse(readFileSync(join(folder, 'as-bf16/config.json'), 'utf8')).dtype).toBe('bfloat16');
    const stored = await readHeader(join(folder, 'as-bf16/model.safetensors'));
    expect(new Set([...stored.values()].map((t) => t.dtype))).toEqual(new Set(['bf16']));
    policy.dispose();
  });

  it('keeps a new model: shape, weights, stop token, tokenizer', async () => {
    const policy = tinyPolicy({ device, seed: 4 }, { modelType: 'qwen3', headDim: 16 });
    await policy.save(join(folder, 'new'));
    const again = await CausalLM.load(join(folder, 'new'), { device });
    expect(again.config).toEqual(policy.config);
    expect(again.stopTokenIds).toEqual([policy.tokenizer.eosTokenId]);
    expect(await again.logProbs(sequences)).toEqual(await policy.logProbs(sequences));
    policy.dispose();
    again.dispose();
  });
});

describe('create', () => {
  it('draws weights that depend on the seed only', async () => {
    const [a, b, c] = [1, 1, 2].map((seed) => tinyPolicy({ device, seed }));
    const weights = await Promise.all([a!, b!, c!].map((policy) => policy.parameters.flat.read()));
    expect(weights[0]).toEqual(weights[1]);
    expect(weights[0]).not.toEqual(weights[2]);
    const table = (await a!.parameters.get('model.embed_tokens.weight').value.read()) as Float32Array;
    expect(Math.hypot(...table) / Math.sqrt(table.length)).toBeCloseTo(0.2, 1);
    expect(new Set(await a!.parameters.get('model.norm.weight').value.read())).toEqual(new Set([1]));
    for (const policy of [a!, b!, c!]) policy.dispose();
  });

  it('refuses a shape that is none, and frees what it took', () => {
    const before = device.memory().liveTensors;
    expect(() => tinyPolicy({ device }, { numKeyValueHeads: 3 })).toThrow(InvalidArgumentError);
    expect(() => tinyPolicy({ device, seed: 0.5 })).toThrow(/seed/);
    expect(device.memory().liveTensors).toBe(before);
  });
});

describe('load', () => {
  const broken = (name: string, change: (copy: string) => void): string => {
    const copy = join(folder, name);
    cpSync(fixtureFolder('llama'), copy, { recursive: true });
    change(copy);
    return copy;
  };
  const edit = (file: string, change: (json: Record<string, unknown>) => void) => (copy: string) => {
    const json = JSON.parse(readFileSync(join(copy, file), 'utf8'));
    change(json);
    writeFileSync(join(copy, file), JSON.stringify(json));
  };
  const weights = (name: string, shape: number[]) => {
    return { name, shape, dtype: 'f32' as const, read: async () => new Uint8Array(4 * shape[0]!) };
  };

  it.each<[string, (copy: string) => void | Promise<void>, RegExp]>([
    ['no config.json', (copy) => rmSync(join(copy, 'config.json')), /config.json: there is no such file/],
    ['no tokenizer.json', (copy) => rmSync(join(copy, 'tokenizer.json')), /tokenizer.json: there is no such file/],
    ['no weights', (copy) => rmSync(join(copy, 'model.safetensors')), /neither model.safetensors nor/],
    ['a config.json that is no JSON', (copy) => writeFileSync(join(copy, 'config.json'), '{'), /not JSON/],
    [
      'another shape',
      edit('config.json', (c) => {
        c.intermediate_size = 50;
      }),
      /shape \[48,32\], expected \[50,32\]/,
    ],
    [
      'a layer too few',
      edit('config.json', (c) => {
        c.num_hidden_layers = 1;
      }),
      /the model has no weight model.layers.1/,
    ],
    [
      'a layer too many',
      edit('config.json', (c) => {
        c.num_hidden_layers = 3;
      }),
      /model.layers.2.* is missing/,
    ],
    [
      'an unknown dtype',
      edit('config.json', (c) => {
        c.dtype = 'int8';
      }),
      /for dtype, got int8/,
    ],
    [
      'a bad stop token',
      edit('generation_config.json', (c) => {
        c.eos_token_id = 'x';
      }),
      /eos_token_id/,
    ],
    [
      'other weights',
      (copy) => writeSafetensors(join(copy, 'model.safetensors'), [weights('x', [1])]),
      /the weight model.embed_tokens.weight is missing/,
    ],
  ])('names what is wrong with a folder with %s', async (name, change, message) => {
    const before = device.memory().liveTensors;
    const copy = broken(name, () => {});
    await change(copy);
    const error = await CausalLM.load(copy, { device }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(FileFormatError);
    expect((error as Error).message).toMatch(message);
    expect(device.memory().liveTensors).toBe(before);
  });

  it('takes stop tokens from generation_config.json, else config.json, else the tokenizer', async () => {
    const stops = async (copy: string) => {
      const policy = await CausalLM.load(copy, { device });
      policy.dispose();
      return policy.stopTokenIds;
    };
    expect(await stops(fixtureFolder('llama'))).toEqual([2, 0]);
    const without = broken('without-generation', (copy) => rmSync(join(copy, 'generation_config.json')));
    expect(await stops(without)).toEqual([2]);
    edit('config.json', (c) => {
      c.eos_token_id = [7, 8];
    })(without);
    expect(await stops(without)).toEqual([7, 8]);
    edit('config.json', (c) => {
      delete c.eos_token_id;
    })(without);
    expect(await stops(without)).toEqual([2]);
  });

  it('passes over a head that is tied and stored all the same', async () => {
    const copy = join(folder, 'tied-and-stored');
    cpSync(fixtureFolder('llama'), copy, { recursive: true });
    edit('config.json', (c) => {
      c.tie_word_embeddings = true;
    })(copy);
    const policy = await CausalLM.load(copy, { device });
    expect([...policy.parameters].map((p) => p.name)).not.toContain('lm_head.weight');
    policy.dispose();
  });
});

describe('score', () => {
  it('packs sequences: each has the log-probs that it has alone', async () => {
    const policy = tinyPolicy({ device });
    const [together, first, second] = [
      await policy.logProbs(sequences),
      await policy.logProbs([sequences[0]!]),
      await policy.logProbs([sequences[1]!]),
    ];
    expect(together).toHaveLength(2);
    const alone = [...first, ...second];
    const differences = together.map((row, b) => Math.max(...row.map((x, i) => Math.abs(x - alone[b]![i]!))));
    expect(Math.max(...differences)).toBeLessThan(1e-5);
    policy.dispose();
  });

  it('gives offsets, and nothing for an empty completion or an empty batch', async () => {
    const policy = tinyPolicy({ device });
    policy.parameters.enableGradients();
    const scores = policy.score([sequences[0]!, { promptIds: [5], completionIds: [] }, sequences[1]!]);
    expect([...scores.sequenceOffsets]).toEqual([0, 2, 2, 5]);
    expect(scores.entropy).toBeNull();
    scores.dispose();
    const none = policy.score([], { gradients: true });
    expect(await none.logProbs.read()).toHaveLength(0);
    none.backward(none.logProbs);
    none.dispose();
    policy.dispose();
  });

  it('gives the same gradients with checkpointing, bit for bit, and adds them up over calls', async () => {
    const policy = tinyPolicy({ device });
    const { parameters } = policy;
    parameters.enableGradients();
    const ones = device.tensor([1, 1, 1, 1, 1], [5]);
    const gradients = async (gradientCheckpointing: boolean, times: number) => {
      parameters.zeroGradients();
      for (let i = 0; i < times; i++) {
        const scores = policy.score(sequences, { gradients: true, gradientCheckpointing });
        scores.backward(ones);
        scores.dispose();
      }
      return (await parameters.gradients!.read()) as Float32Array;
    };
    const once = await gradients(false, 1);
    expect(await gradients(true, 1)).toEqual(once);
    const twice = await gradients(false, 2);
    const scale = Math.max(...once.map(Math.abs));
    expect(Math.max(...twice.map((x, i) => Math.abs(x - 2 * once[i]!))) / scale).toBeLessThan(1e-6);
    ones.dispose();
    policy.dispose();
  });

  it('needs less memory with checkpointing, and frees everything in backward', async () => {
    const policy = tinyPolicy({ device }, { numHiddenLayers: 8 });
    policy.parameters.enableGradients();
    const long = [{ promptIds: [3], completionIds: new Int32Array(100).fill(9) }];
    const ones = device.tensor(new Float32Array(100).fill(1), [100]);
    const held = async (gradientCheckpointing: boolean) => {
      await device.synchronize();
      const before = device.memory();
      const scores = policy.score(long, { gradients: true, gradientCheckpointing });
      await device.synchronize();
      const bytes = device.memory().liveBytes - before.liveBytes;
      scores.backward(ones);
      scores.dispose();
      await device.synchronize();
      expect(device.memory().liveTensors).toBe(before.liveTensors);
      return bytes;
    };
    const whole = await held(false);
    expect(await held(true)).toBeLessThan(whole / 4);
    ones.dispose();
    policy.dispose();
  });

  it('refuses what it cannot do', () => {
    const policy = tinyPolicy({ device });
    const score = (promptIds: number[], completionIds: number[]) => policy.score([{ promptIds, completionIds }]);
    expect(() => score([], [1])).toThrow(/sequences\[0\].promptIds/);
    expect(() => score([1], [999])).toThrow(/sequences\[0\].completionIds\[0\]/);
    expect(() => score([1.5], [1])).toThrow(InvalidArgumentError);
    expect(() => score(new Array(100).fill(3), new Array(29).fill(3))).toThrow(/context of 128 tokens/);
    expect(() => policy.score(sequences, { temperature: 0 })).toThrow(/temperature/);
    expect(() => policy.score(sequences, { workspaceBytes: 0 })).toThrow(/workspaceBytes/);
    expect(() => policy.score(sequences, { gradients: true })).toThrow(/frozen/);
    policy.dispose();
  });

  it('runs backward once, and only with gradients', () => {
    const policy = tinyPolicy({ device });
    policy.parameters.enableGradients();
    const ones = device.tensor([1, 1, 1, 1, 1], [5]);
    const without = policy.score(sequences);
    expect(() => without.backward(ones)).toThrow(GrpoError);
    const scores = policy.score(sequences, { gradients: true });
    expect(() => scores.backward(ones, ones)).toThrow(/entropy/);
    scores.backward(ones);
    expect(() => scores.backward(ones)).toThrow(/it ran before/);
    for (const owner of [without, scores, ones, policy]) owner.dispose();
  });
});

it('a clone has weights of its own, and is frozen unless asked otherwise', async () => {
  const policy = tinyPolicy({ device });
  const [frozen, free] = [policy.clone(), policy.clone({ frozen: false })];
  expect([frozen.parameters.frozen, free.parameters.frozen, policy.parameters.frozen]).toEqual([true, false, true]);
  const before = await policy.logProbs(sequences);
  device.run('fill', { out: policy.parameters.flat, value: 0 });
  expect(await frozen.logProbs(sequences)).toEqual(before);
  expect(await policy.logProbs(sequences)).not.toEqual(before);
  for (const owner of [policy, frozen, free]) owner.dispose();
});

it('a disposed policy says so', async () => {
  const policy = tinyPolicy({ device });
  policy.dispose();
  expect(() => policy.score(sequences)).toThrow(DisposedError);
  await expect(policy.generate(['1'], { maxNewTokens: 1 })).rejects.toThrow(DisposedError);
  await expect(policy.save(folder)).rejects.toThrow(DisposedError);
});
