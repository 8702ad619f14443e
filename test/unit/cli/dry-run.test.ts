import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { runProgram } from '../../../src/cli/program.js';
import '../../../src/platform/node.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import { renderPrompt } from '../../../src/recipes/raif/templates.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { tinyAlphabet, tinyShape } from '../../tiny-model.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'dry-run-'));
  const device = await openDevice('cpu');
  const tokenizer = Tokenizer.fromCharacters(`${tinyAlphabet}|:_DUA`);
  using policy = CausalLM.create(tinyShape, tokenizer, { device, seed: 1 });
  await policy.save(join(folder, 'model'));
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});
afterAll(() => rm(folder, { recursive: true }));

async function run(...args: string[]): Promise<{ code: number; out: string; error: string }> {
  let out = '';
  let error = '';
  const stdout = vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
    out += text;
    return true;
  });
  const stderr = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    error += text;
    return true;
  });
  try {
    return { code: await runProgram(['train', ...args, '--dry-run']), out, error };
  } finally {
    stdout.mockRestore();
    stderr.mockRestore();
  }
}

async function write(name: string, ...rows: object[]): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  return path;
}

describe('grpo train --dry-run', () => {
  it('plans a recipe by its name, without model or data', async () => {
    const { code, out } = await run('raif/qwen2.5-1.5b');
    expect(code).toBe(0);
    expect(out).toMatch(/models\/Qwen2.5-1.5B-Instruct \(not here\)/);
    expect(out).toMatch(/32 prompts x 8 \(2 without thinking.*\) = 256 completions/);
    expect(out).toMatch(/128 completions, 128 demonstrations/);
    expect(out).toMatch(/30 passes, each of 62 for 1,000 prompts/);
    expect(out).toMatch(/parameters +1,543,714,304/);
    expect(out).toMatch(/total +\d+\.\d GiB/);
  });

  it('knows the learning rates when something says how long the run is', async () => {
    const { out } = await run('raif/qwen2.5-1.5b', '--max-steps', '1000');
    expect(out).toMatch(/update 1 +3\.333e-8\n.*update 2 +6\.667e-8\n.*update 30 +1\.000e-6/);
    expect(out).toMatch(/update 1,000 +1\.000e-7/);
  });

  it('reads model and data where they are, of any configuration', async () => {
    const dataset = await write('plain.jsonl', { prompt: '1+1=' }, { prompt: '10+1=' });
    const flags = ['--model', join(folder, 'model'), '--dataset', dataset, '--rewards', 'format'];
    const { code, out } = await run(...flags, '--per-device-train-batch-size', '8', '--num-train-epochs', '5');
    expect(code).toBe(0);
    expect(out).toMatch(/prompts +2, the longest of 5 tokens/);
    expect(out).toMatch(/updates +10\n/);
    expect(out).toMatch(/total +\d+\.\d MiB/);
  });

  it('counts activations in the format that they will have', async () => {
    const bytes = async (...flags: string[]) => {
      const { out } = await run('raif/qwen2.5-1.5b', ...flags);
      return Number(/\n {2}activations +(\d+\.\d) GiB/.exec(out)![1]);
    };
    const whole = await bytes('--device', 'cpu');
    for (const flags of [
      ['--activations', 'bf16'],
      ['--device', 'cuda'],
      ['--devices', 'cuda:0', '--devices', 'cuda:1'],
    ]) {
      expect(Math.abs((await bytes(...flags)) / whole - 0.5)).toBeLessThan(0.01);
    }
    expect(await bytes('--device', 'cuda', '--activations', 'f32')).toBe(whole);
    const { code, error } = await run('raif/qwen2.5-1.5b', '--activations', 'f16');
    expect(code).not.toBe(0);
    expect(error).toMatch(/activations/);
  });

  it('plans for all ranks of a launcher, and one of them says it', async () => {
    const dataset = await write('plain.jsonl', ...Array.from({ length: 16 }, (_, i) => ({ prompt: `${i}+1=` })));
    const flags = ['--model', join(folder, 'model'), '--dataset', dataset, '--rewards', 'format', '--zero-stage', '1'];
    const onRank = async (rank: string) => {
      for (const [name, value] of Object.entries({ RANK: rank, WORLD_SIZE: '2', MASTER_ADDR: 'host' })) {
        vi.stubEnv(name, value);
      }
      try {
        return await run(...flags, '--per-device-train-batch-size', '8');
      } finally {
        vi.unstubAllEnvs();
      }
    };
    const alone = await run(...flags, '--per-device-train-batch-size', '8');
    const first = await onRank('0');
    expect(alone.out).toMatch(/1 prompts x 8 = 8 completions/);
    expect(first.out).toMatch(/Plan of 2 ranks together\n.*2 prompts x 8 = 16 completions/);
    expect(alone.out).toMatch(/updates +48\n/);
    expect(first.out).toMatch(/updates +24\n/);
    const optimizer = ({ out }: { out: string }) => Number(/optimizer +(\d+\.\d) MiB/.exec(out)![1]);
    expect(optimizer(first)).toBeLessThan(0.7 * optimizer(alone));
    expect(await onRank('1')).toMatchObject({ code: 0, out: '' });
  });

  it("reads RAIF's data, and says what it did to it", async () => {
    const input = renderPrompt('base', { user: 'do it' });
    const rule = JSON.stringify({ instruction_id_list: ['punctuation:no_comma'], kwargs: [{}] });
    const instructions = { input, task: 'ifeval', target: rule };
    const long = { ...instructions, input: renderPrompt('base', { user: 'do it '.repeat(9) }) };
    const broken = { ...instructions, target: '{}' };
    const dataset = await write('raif.jsonl', { input, target: '4' }, instructions, instructions, long, broken);
    const benchmark = await write('benchmark.jsonl', { prompt: 'so do it' });
    const config = join(folder, 'raif.yaml');
    const raif = 'mix: {maths: 1, instructions: 1}, maxPromptTokens: 40, benchmark: [benchmark.jsonl], overlapWords: 2';
    const text = (extra: string) => `model: model\ndataset: raif.jsonl\nrewards: raif\nraif: {${raif}${extra}}\n`;
    await writeFile(config, text(''));
    expect(await run(config)).toMatchObject({ code: 1, error: expect.stringContaining(`${dataset}:5: `) });
    await writeFile(config, text(', skipInvalid: true'));
    const { out, code } = await run(config);
    expect(code).toBe(0);
    expect(out).toContain(`${dataset}: left out as unusable: 1`);
    expect(out).toMatch(/Prompts left out as too long: 1\n.*raif.jsonl:4: \d+ tokens, more than 40/);
    expect(out).toMatch(/share 2 words in a row with a benchmark \(kept\): 2/);
    expect(out).toContain('Rows: 1 of maths, 1 of instructions, out of 4 read');
    expect(benchmark).toContain(folder);
  });

  it('refuses questions without a judge, and cloning without expert replies', async () => {
    const input = renderPrompt('base', { user: 'do it' });
    await write('asks.jsonl', { input, task: 'complex', target: '{"scoring_questions":["well?"]}' });
    const config = join(folder, 'asks.yaml');
    await writeFile(config, 'model: model\ndataset: asks.jsonl\nrewards: raif\nraif: {}\n');
    expect(await run(config)).toMatchObject({
      code: 1,
      error: expect.stringMatching(/asks.jsonl:1 asks questions.*without a judge/),
    });
    const cloning = await run(config, '--sft-coefficient', '1');
    expect(cloning).toMatchObject({ code: 2, error: expect.stringMatching(/sftCoefficient: needs demonstrations/) });
  });
});
