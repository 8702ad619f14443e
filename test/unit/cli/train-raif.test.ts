import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { runProgram } from '../../../src/cli/program.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import { renderPrompt } from '../../../src/recipes/raif/templates.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { tinyAlphabet, tinyShape } from '../../tiny-model.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'train-raif-'));
  const device = await openDevice('cpu');
  const policy = CausalLM.create(tinyShape, Tokenizer.fromCharacters(`${tinyAlphabet}:UA`), { device, seed: 1 });
  await policy.save(join(folder, 'model'));
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});
afterAll(() => rm(folder, { recursive: true }));

it("grpo train carries RAIF's recipe through: data, contrast, cloning, rewards by name", async () => {
  const input = renderPrompt('base', { user: 'do it' });
  const rule = { instruction_id_list: ['punctuation:no_comma'], kwargs: [{}] };
  const rows = [
    { input, target: '4' },
    { input, task: 'ifeval', target: JSON.stringify(rule) },
    { input, task: 'ifeval', target: JSON.stringify(rule) },
  ];
  const lines = (values: object[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');
  await writeFile(join(folder, 'rows.jsonl'), lines(rows));
  const expert = { question: `${input}<think>\n`, answer: 'ok</think><answer>done</answer>' };
  await writeFile(join(folder, 'experts.jsonl'), lines([expert]));
  const config = `model: model
dataset: rows.jsonl
demonstrations: experts.jsonl
raif: { mix: { maths: 1, instructions: 1 }, maxPromptTokens: 64 }
rewards: raif
contrast: { share: 0.5, score: answer, met: constraints_met }
sftCoefficient: 1
sftBatchSize: 1
numGenerations: 4
perDeviceTrainBatchSize: 8
maxCompletionLength: 8
maxSteps: 2
learningRate: 1e-3
device: cpu
outputDir: run
`;
  await writeFile(join(folder, 'run.yaml'), config);
  let said = '';
  const silent = vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    said += text;
    return true;
  });
  try {
    expect(await runProgram(['train', join(folder, 'run.yaml')])).toBe(0);
  } finally {
    silent.mockRestore();
  }
  expect(said).toContain('Rows: 1 of maths, 1 of instructions, out of 3 read');
  const [first, second] = (await readFile(join(folder, 'run', 'metrics.jsonl'), 'utf8')).trim().split('\n');
  const { sft_loss: before, ...metrics } = JSON.parse(first!);
  for (const part of ['answer', 'format', 'accuracy']) expect(metrics[`rewards/${part}/mean`]).toBeTypeOf('number');
  // The teacher is the only one to know the format yet.
  expect(metrics['rewards/format/mean']).toBe(-1);
  expect(metrics['contrast/kept']).toBe(1);
  expect(JSON.parse(second!).sft_loss).toBeLessThan(before);
});
