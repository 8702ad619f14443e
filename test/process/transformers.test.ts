import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../src/backend/open-device.js';
import { CausalLM } from '../../src/models/causal-lm.js';
import '../../src/platform/node.js';
import type { ModelShape } from '../../src/models/config.js';
import type { Device } from '../../src/tensor.js';
import { tinyPolicy } from '../tiny-model.js';
import { families, fixtureFolder } from '../unit/models/fixtures.js';

/** GRPO_PYTHON names another interpreter than python3, for one with torch and transformers. */
const python = process.env.GRPO_PYTHON ?? 'python3';
const hasTransformers = spawnSync(python, ['-c', 'import torch, transformers']).status === 0;
const script = fileURLToPath(new URL('load_in_transformers.py', import.meta.url));

interface Answer {
  logProbs: number[];
  problems: string[];
  stopTokenIds: number | number[];
  ids: number[];
  chat: string | null;
}

const request = {
  sequences: [
    { promptIds: [5, 6, 7], completionIds: [8, 9, 12] },
    { promptIds: [4], completionIds: [10, 11, 12, 13] },
  ],
  text: '12 + 7 = 19 and so on',
};

const ropeScaling = { factor: 4, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositionEmbeddings: 16 };
const shapes: Record<string, Partial<ModelShape>> = {
  'new llama': { headDim: 12, tieWordEmbeddings: false },
  'new llama with biases and stretched rotation': { ropeScaling, ropeTheta: 300, attentionBias: true, mlpBias: true },
  'new qwen2': { modelType: 'qwen2' },
  'new qwen3': { modelType: 'qwen3', headDim: 12 },
  'new mistral': { modelType: 'mistral', eosTokenIds: [0, 5] },
};
const names = [...families, ...Object.keys(shapes)];

describe.runIf(hasTransformers)('transformers loads what save() writes, and computes the same:', () => {
  let device: Device;
  let folder: string;
  const policies: CausalLM[] = [];
  let answers: Answer[];

  beforeAll(async () => {
    device = await openDevice('cpu');
    folder = mkdtempSync(join(tmpdir(), 'saved-'));
    for (const name of families) policies.push(await CausalLM.load(fixtureFolder(name), { device }));
    for (const shape of Object.values(shapes)) policies.push(tinyPolicy({ device, seed: 3 }, shape));
    for (const [i, policy] of policies.entries()) await policy.save(join(folder, String(i)));
    const { status, stdout, stderr } = spawnSync(python, [script, ...names.map((_, i) => join(folder, String(i)))], {
      input: JSON.stringify(request),
      encoding: 'utf8',
      env: { ...process.env, HF_HUB_OFFLINE: '1' },
    });
    expect(status, stderr).toBe(0);
    answers = JSON.parse(stdout);
  }, 180_000);

  afterAll(() => {
    for (const policy of policies) policy.dispose();
    rmSync(folder, { recursive: true });
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  it.each(names.map((name, i) => [name, i] as const))('%s', async (_, i) => {
    const [policy, answer] = [policies[i]!, answers[i]!];
    const expected = (await policy.logProbs(request.sequences)).flatMap((row) => [...row]);
    expect(answer.problems).toEqual([]);
    expect(answer.ids).toEqual([...policy.tokenizer.encode(request.text)]);
    expect([answer.stopTokenIds].flat()).toEqual(policy.stopTokenIds);
    const chat = [{ role: 'user', content: 'Hi' }];
    expect(answer.chat).toBe(policy.tokenizer.chatTemplate ? policy.tokenizer.applyChatTemplate(chat) : null);
    expect(answer.logProbs).toHaveLength(expected.length);
    expect(Math.max(...answer.logProbs.map((x, t) => Math.abs(x - expected[t]!)))).toBeLessThan(2e-5);
  });
});
