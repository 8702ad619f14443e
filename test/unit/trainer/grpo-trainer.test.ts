import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { Reward } from '../../../src/rewards/reward.js';
import type { RolloutEngine } from '../../../src/rollout/engine.js';
import { NativeEngine } from '../../../src/rollout/native-engine.js';
import type { Device } from '../../../src/tensor.js';
import { latestCheckpoint } from '../../../src/trainer/checkpoint-folders.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../../src/trainer/grpo-trainer.js';
import type { StepReport } from '../../../src/trainer/trainer.js';
import { tinyPolicy } from '../../tiny-model.js';
import { RecordingTracker } from './recording-tracker.js';

let device: Device;
let folder: string;
beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'grpo-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const wanted = 'abcdefgh';
const dataset = Array.from({ length: 6 }, (_, i) => ({ prompt: `${i}=`, wanted }));
/** The share of wanted characters in a completion. */
const reward: Reward = {
  name: 'wanted',
  score: (batch) =>
    batch.map(({ completion, record }) => [...completion].filter((c) => String(record.wanted).includes(c)).length / 4),
};
const small = {
  dataset,
  rewards: [reward],
  numGenerations: 4,
  perDeviceTrainBatchSize: 4,
  gradientAccumulationSteps: 2,
  maxCompletionLength: 4,
  maxSteps: 6,
  learningRate: 5e-3,
  weightDecay: 0.01,
} satisfies Partial<GRPOTrainerOptions>;

async function withTrainer<T>(
  { dtype, ...options }: Partial<GRPOTrainerOptions> & { dtype?: 'f32' | 'bf16' },
  use: (trainer: GRPOTrainer, policy: CausalLM) => Promise<T>,
): Promise<T> {
  const policy = options.policy ?? tinyPolicy({ device, seed: 1, dtype });
  try {
    await using trainer = await GRPOTrainer.create({ policy, ...small, ...options });
    return await use(trainer, policy);
  } finally {
    policy.dispose();
  }
}

async function finish(trainer: GRPOTrainer, policy: CausalLM) {
  const reports: StepReport[] = [];
  for await (const report of trainer) reports.push(report);
  return { reports, weights: await policy.parameters.flat.readBytes() };
}

describe('GRPOTrainer', () => {
  it('raises the reward', async () => {
    const options = { maxSteps: 40, learningRate: 1e-2, perDeviceTrainBatchSize: 16, numGenerations: 8 };
    const rewards = await withTrainer(options, async (trainer) => {
      const means: number[] = [];
      for await (const { metrics } of trainer) means.push(metrics.reward!);
      return means;
    });
    expect(rewards[0]).toBeLessThan(0.3);
    expect(rewards.at(-1)).toBeGreaterThan(0.9);
  });

  it('makes one report an update, with the metrics that the guide lists', async () => {
    const { reports } = await withTrainer({ beta: 0.1 }, finish);
    expect(reports.map((report) => report.step)).toEqual([1, 2, 3, 4, 5, 6]);
    const [first] = reports as [StepReport];
    expect(first.learningRate).toBe(5e-3);
    expect(reports[5]!.learningRate).toBeCloseTo(5e-3 / 6, 12);
    expect(Object.keys(first.metrics)).toEqual(
      expect.arrayContaining([
        'reward',
        'reward_std',
        'rewards/wanted/mean',
        'rewards/wanted/std',
        'frac_reward_zero_std',
        'frac_reward_unscorable',
        'completions/mean_length',
        'completions/clipped_ratio',
        'kl',
        'entropy',
        'clip_ratio/region_mean',
        'num_tokens',
        'tokens_per_second',
      ]),
    );
    expect(first.metrics).toMatchObject({ kl: 0, 'ratio/mean': 1, 'clip_ratio/region_mean': 0 });
    expect(reports[5]!.metrics.kl).toBeGreaterThan(0);
    expect(first.completions).toHaveLength(8);
    const { rewards, advantage, ...row } = first.completions[0]!;
    expect(row).toMatchObject({ step: 1, split: 'train', prompt: expect.stringMatching(/^\d=$/) });
    expect(rewards).toEqual({ wanted: row.reward });
    expect(typeof advantage).toBe('number');
  });

  it('counts the updates of a run from the data', async () => {
    const total = (options: Partial<GRPOTrainerOptions>) =>
      withTrainer({ maxSteps: null, ...options }, async (trainer) => trainer.totalSteps);
    // 6 prompts a pass, 2 an update.
    expect(await total({ numTrainEpochs: 3 })).toBe(9);
    expect(await total({ numTrainEpochs: 0.5 })).toBe(2);
    expect(await total({ numTrainEpochs: 3, numIterations: 2 })).toBe(18);
    expect(await total({ numTrainEpochs: 1, stepsPerGeneration: 4 })).toBe(3);
  });

  it('generates once for stepsPerGeneration x numIterations micro-batches and keeps old log-probs', async () => {
    const policy = tinyPolicy({ device, seed: 1 });
    const counting = countingEngine(policy);
    const options = { policy, engine: counting.engine, stepsPerGeneration: 4, numIterations: 2, maxSteps: 8 };
    const { reports } = await withTrainer(options, finish);
    // An update takes 2 of the 8 micro-batches of a generation.
    expect(counting.calls).toEqual([
      { prompts: 4, n: 4 },
      { prompts: 4, n: 4 },
    ]);
    expect(reports.map((report) => report.completions.length)).toEqual([16, 0, 0, 0, 16, 0, 0, 0]);
    const drift = reports.map((report) => report.metrics.policy_kl!);
    expect(drift[0]).toBeCloseTo(0, 9);
    for (const step of [1, 2, 3]) expect(drift[step]).toBeGreaterThan(1e-4);
    expect(drift[4]).toBeCloseTo(0, 9);
  });

  it('goes on when a reward fails, and says so', async () => {
    let calls = 0;
    const flaky: Reward = {
      name: 'flaky',
      score: (batch) => {
        if (++calls === 2) throw new Error('judge is away');
        return batch.map(() => 0.5);
      },
    };
    const { reports } = await withTrainer({ rewards: [reward, flaky], maxSteps: 3 }, finish);
    expect(reports.map((report) => report.metrics.frac_reward_unscorable)).toEqual([0, 1, 0]);
    expect(reports[1]!.rewardFailures).toEqual([{ reward: 'flaky', reason: 'threw', message: 'judge is away' }]);
    expect(reports[1]!.metrics['rewards/flaky/unscorable']).toBe(8);
    expect(reports[1]!.metrics.reward).toBeUndefined();
    expect(reports[1]!.gradNorm).toBe(0);
    expect(reports[1]!.completions.every((row) => row.advantage === 0 && row.rewards.flaky === null)).toBe(true);
  });

  it('stops after the update in progress', async () => {
    const controller = new AbortController();
    await withTrainer({ signal: controller.signal }, async (trainer) => {
      const seen: number[] = [];
      for await (const { step } of trainer) {
        seen.push(step);
        if (step === 2) controller.abort();
      }
      expect(seen).toEqual([1, 2]);
    });
    await withTrainer({}, async (trainer) => {
      const running = trainer.train(); // has begun the first update when it returns
      trainer.stop();
      const summary = await running;
      expect(summary).toMatchObject({ steps: 1, stopped: true, report: { step: 1 } });
    });
  });

  it('refuses a second call while one is running', async () => {
    await withTrainer({}, async (trainer) => {
      const running = trainer.train();
      await expect(trainer.save(join(folder, 'never'))).rejects.toThrow(/in the middle of another call/);
      await running;
    });
  });

  it('evaluates held-out prompts greedily and repeatably', async () => {
    const tracker = new RecordingTracker();
    const options = {
      evalDataset: [
        { prompt: '7=', wanted },
        { prompt: '8=', wanted },
      ],
      evalOnStart: true,
      evalSteps: 4,
      tracker,
    };
    await withTrainer(options, async (trainer) => {
      expect(await trainer.evaluate()).toEqual(await trainer.evaluate());
      await trainer.train();
    });
    const evaluated = tracker.entries.filter(({ values }) => 'eval/reward' in values);
    expect(evaluated.map(({ step }) => step)).toEqual([0, 4, 6]);
    expect(Object.keys(evaluated[0]!.values)).toContain('eval/rewards/wanted/mean');
    const rows = tracker.rows.filter((row) => row.split === 'eval');
    expect(rows.map((row) => row.prompt).slice(0, 2)).toEqual(['7=', '8=']);
    expect(tracker.rows.filter((row) => row.split === 'train')).toHaveLength(6 * 8);
  });

  it('logs means over loggingSteps updates, and what is left at the end', async () => {
    const tracker = new RecordingTracker();
    const { reports } = await withTrainer({ loggingSteps: 4, tracker }, finish);
    expect(tracker.config).toMatchObject({ numGenerations: 4, totalSteps: 6 });
    expect(tracker.entries.map(({ step }) => step)).toEqual([4, 6]);
    const losses = reports.slice(0, 4).map((report) => report.loss);
    expect(tracker.entries[0]!.values.loss).toBeCloseTo(losses.reduce((a, b) => a + b) / 4, 9);
    expect(tracker.entries[1]!.values).toMatchObject({ num_tokens: reports[5]!.metrics.num_tokens, epoch: 2 });
    expect(tracker.finished).toBe(1);
  });

  it('cuts long prompts at their start and stops at strings', async () => {
    const prompts: string[] = [];
    const policy = tinyPolicy({ device, seed: 1 });
    const native = new NativeEngine(policy);
    const engine: RolloutEngine = {
      generate: (ids, options) => {
        expect(options.stop).toEqual(['b']);
        prompts.push(...ids.map((row) => policy.tokenizer.decode(row)));
        return native.generate(ids, options);
      },
    };
    await withTrainer(
      { policy, engine, dataset: [{ prompt: 'abcdef' }], maxPromptLength: 3, stop: ['b'], maxSteps: 1 },
      finish,
    );
    expect(prompts).toEqual(['def', 'def']);
  });

  it('tells an engine when the weights are new, and reports what it gives wrong', async () => {
    const policy = tinyPolicy({ device, seed: 1 });
    const native = new NativeEngine(policy);
    const steps: number[] = [];
    const engine: RolloutEngine = {
      generate: async (ids, options) =>
        (await native.generate(ids, options)).slice(0, steps.length < 2 ? undefined : 1),
      weightsChanged: async (step) => {
        steps.push(step);
      },
    };
    await expect(withTrainer({ policy, engine }, finish)).rejects.toThrow(
      /gave 1 groups of 4 completions for 2 prompts/,
    );
    expect(steps).toEqual([1, 2]);
  });

  it('names every problem of its options', async () => {
    const create = (options: object) => withTrainer(options as Partial<GRPOTrainerOptions>, async () => {});
    await expect(create({ numGeneration: 2 })).rejects.toThrow(
      /numGeneration: unknown option; did you mean numGenerations\?/,
    );
    await expect(create({ dataset: [{ question: 'x' }] })).rejects.toThrow(/dataset\[0\]/);
    await expect(create({ rewards: undefined })).rejects.toThrow(/at least one reward/);
    await expect(create({ rewardWeights: [1, 2] })).rejects.toThrow(/rewardWeights/);
    await expect(create({ evalSteps: 1 })).rejects.toThrow(/held-out rows for evalSteps/);
    await expect(create({ dataset: undefined, maxSteps: null })).rejects.toThrow(/maxSteps/);
    await expect(withTrainer({ dataset: undefined, rewards: undefined }, (t) => t.train())).rejects.toThrow(
      /call step/,
    );
  });
});

describe('a resumed run gives the same bits as an unbroken one', () => {
  const cases: [string, Parameters<typeof withTrainer>[0]][] = [
    ['on policy', {}],
    ['bf16 weights', { dtype: 'bf16' }],
    [
      'with a reference, several iterations and a generation in use',
      { beta: 0.05, stepsPerGeneration: 4, numIterations: 2 },
    ],
  ];

  it.each(cases)('%s', async (name, extra) => {
    const outputDir = join(folder, name.slice(0, 9).trim());
    const options = { ...extra, lrSchedulerType: 'cosine', warmupSteps: 2, outputDir } as const;
    const unbroken = await withTrainer(options, finish);
    const saved = await withTrainer(options, async (trainer) => {
      for await (const { step } of trainer) if (step === 3) break;
      return trainer.save();
    });
    const resumed = await withTrainer(options, async (trainer, policy) => {
      await trainer.resume(saved);
      return finish(trainer, policy);
    });
    expect(resumed.reports.map((report) => report.step)).toEqual([4, 5, 6]);
    expect(resumed.weights).toEqual(unbroken.weights);
    const said = ({ reports }: typeof resumed) => reports.slice(-3).map((report) => [report.loss, report.completions]);
    expect(said(resumed)).toEqual(said(unbroken));
    // The folder is a model as any other.
    const loaded = await CausalLM.load(saved, { device });
    expect(loaded.parameters.count).toBeGreaterThan(0);
    loaded.dispose();
  });

  it('keeps the newest checkpoints', async () => {
    const outputDir = join(folder, 'kept');
    await withTrainer({ outputDir, saveSteps: 2, saveTotalLimit: 2, maxSteps: 7 }, finish);
    expect(readdirSync(outputDir).toSorted()).toEqual(['checkpoint-6', 'checkpoint-7']);
    expect(await latestCheckpoint(outputDir)).toBe(`${outputDir}/checkpoint-7`);
    expect(existsSync(join(outputDir, 'checkpoint-7', 'model.safetensors'))).toBe(true);
  });

  it('refuses a checkpoint of another reference, another data set or another trainer', async () => {
    const saved = await withTrainer({ beta: 0.1, maxSteps: 1 }, async (trainer) => {
      await trainer.train();
      return trainer.save(join(folder, 'with-reference'));
    });
    const resume = (options: Partial<GRPOTrainerOptions>) => withTrainer(options, (trainer) => trainer.resume(saved));
    await resume({ beta: 0.1 });
    await expect(resume({ beta: 0.1, policy: tinyPolicy({ device, seed: 2 }) })).rejects.toThrow(/another reference/);
    await expect(resume({ beta: 0.1, dataset: dataset.slice(1) })).rejects.toThrow(
      /a data set of 6 rows; this one has 5/,
    );
    const wider = tinyPolicy({ device, seed: 1 }, { intermediateSize: 32 });
    await expect(withTrainer({ policy: wider, beta: 0.1 }, (t) => t.resume(saved))).rejects.toThrow(
      /another reference/,
    );
  });
});

function countingEngine(policy: CausalLM): { engine: RolloutEngine; calls: { prompts: number; n: number }[] } {
  const calls: { prompts: number; n: number }[] = [];
  const native = new NativeEngine(policy);
  return {
    calls,
    engine: {
      generate: (ids, options) => {
        calls.push({ prompts: ids.length, n: options.n! });
        return native.generate(ids, options);
      },
    },
  };
}
