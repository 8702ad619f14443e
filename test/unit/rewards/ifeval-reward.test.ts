import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { checkResponses, parseIFEval, summariseIFEval } from '../../../src/eval/ifeval.js';
import { type IFEvalRewardOptions, ifevalReward } from '../../../src/rewards/ifeval-reward.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import { tinyPolicy } from '../../tiny-model.js';
import { RecordingTracker } from '../trainer/recording-tracker.js';
import { sample } from './samples.js';

const record = {
  prompt: 'Name two rivers.',
  instruction_id_list: ['punctuation:no_comma', 'keywords:existence'],
  kwargs: [{}, { keywords: ['Rhine'] }],
};

const score = async (completion: string, options: IFEvalRewardOptions = {}, row: object = record) => {
  const batch = [sample(completion, { record: row as typeof record })];
  return (await ifevalReward(options).score(batch))[0];
};

describe('ifevalReward', () => {
  it('is the share of instructions that are followed', async () => {
    expect(await score('Danube and Rhine')).toBe(1);
    expect(await score('Danube, Rhine')).toBe(0.5);
    expect(await score('Danube, Elbe')).toBe(0);
    expect(await score('')).toBe(0);
  });

  it('can ask for all of them', async () => {
    expect(await score('Danube and Rhine', { level: 'all' })).toBe(1);
    expect(await score('Danube, Rhine', { level: 'all' })).toBe(0);
  });

  it('is strict by default, and loose if wanted', async () => {
    const introduced = 'Sure, gladly!\nDanube and Rhine';
    expect(await score(introduced)).toBe(0.5);
    expect(await score(introduced, { loose: true })).toBe(1);
  });

  it('scores the answer part alone', async () => {
    const completion = '<think>Danube, Rhine</think><answer>Danube and Rhine</answer>';
    expect(await score(completion)).toBe(0.5);
    expect(await score(completion, { tag: 'answer' })).toBe(1);
    expect(await score(completion, { afterThink: true })).toBe(1);
    expect(await score('Danube and Rhine', { tag: 'answer' })).toBe(0);
    expect(await score('<think>Danube and Rhine', { afterThink: true })).toBe(0);
  });

  it('does not apply to rows without instructions, and refuses wrong ones', async () => {
    expect(await score('x', {}, { prompt: 'p' })).toBeNull();
    const wrong = { ...record, kwargs: [{}, { keyword: ['Rhine'] }] };
    await expect(score('x', {}, wrong)).rejects.toThrow(/keywords of keywords:existence/);
    expect(() => ifevalReward({ level: 'some' as 'all' })).toThrow('Expected fraction or all for level');
  });
});

describe('evalSteps', () => {
  let device: Device;
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 });
  });
  afterAll(() => {
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  it('is refused for rows with instructions that cannot be checked, before training', async () => {
    using policy = tinyPolicy({ device, seed: 4 });
    const wrong = { ...record, kwargs: [{}, {}] };
    const options = { policy, rewards: [ifevalReward()], numGenerations: 2, perDeviceTrainBatchSize: 2, maxSteps: 1 };
    await expect(GRPOTrainer.create({ ...options, dataset: [record, wrong] })).rejects.toThrow(/dataset\[1\]/);
    await expect(GRPOTrainer.create({ ...options, dataset: [record], evalDataset: [wrong] })).rejects.toThrow(
      /a row that the reward ifeval can score \(Expected a list of strings.*keywords of keywords:existence.*evalDataset\[0\]/,
    );
  });

  it('measures on held-out prompts what grpo eval ifeval measures', async () => {
    const heldOut = Array.from({ length: 8 }, (_, i) => ({
      prompt: `${i}=`,
      instruction_id_list: ['keywords:letter_frequency', 'keywords:forbidden_words'],
      kwargs: [{ letter: 'abcd'[i % 4], let_frequency: 1, let_relation: 'at least' }, { forbidden_words: ['a', 'b'] }],
    }));
    using policy = tinyPolicy({ device, seed: 4 });
    const tracker = new RecordingTracker();
    const items = parseIFEval(heldOut.map((row) => JSON.stringify(row)).join('\n'), 'held-out');
    const evaluated: number[] = [];
    await using trainer = await GRPOTrainer.create({
      policy,
      dataset: heldOut,
      evalDataset: heldOut,
      rewards: [ifevalReward()],
      tracker,
      numGenerations: 4,
      perDeviceTrainBatchSize: 8,
      maxCompletionLength: 6,
      maxSteps: 2,
      evalSteps: 1,
      evalTemperature: 0,
      learningRate: 1e-3,
    });
    for await (const _ of trainer) {
      const answers = await policy.generate(
        heldOut.map(({ prompt }) => prompt),
        { maxNewTokens: 6, temperature: 0 },
      );
      const responses = new Map(items.map(({ id }, i) => [id, { response: answers[i]![0]!.text }]));
      evaluated.push(summariseIFEval(checkResponses(items, responses)).strict.instructionLevel.value);
    }
    const logged = tracker.entries.flatMap(({ values }) => values['eval/rewards/ifeval/mean'] ?? []);
    // Evaluation runs before the first update as well, or not: the last ones are those after each update.
    expect(logged.slice(-2).map((value) => value.toFixed(6))).toEqual(evaluated.map((value) => value.toFixed(6)));
    expect(Math.max(...evaluated)).toBeGreaterThan(0);
  });
});
