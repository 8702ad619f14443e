import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import { SFTTrainer, type SFTTrainerOptions } from '../../../src/trainer/sft-trainer.js';
import { tinyPolicy } from '../../tiny-model.js';
import { RecordingTracker } from './recording-tracker.js';

let device: Device;
let folder: string;
beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'sft-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const rows = Array.from({ length: 10 }, (_, i) => ({ prompt: `${i}+1=`, completion: `${i + 1}` }));

async function withTrainer<T>(
  options: Partial<SFTTrainerOptions>,
  use: (trainer: SFTTrainer, policy: CausalLM) => Promise<T>,
): Promise<T> {
  const policy = tinyPolicy({ device, seed: 1 });
  const settings = { perDeviceTrainBatchSize: 5, learningRate: 1e-2, lrSchedulerType: 'constant' } as const;
  try {
    await using trainer = await SFTTrainer.create({ policy, dataset: rows, ...settings, ...options });
    return await use(trainer, policy);
  } finally {
    policy.dispose();
  }
}

describe('SFTTrainer', () => {
  it('learns the completions', async () => {
    const said = await withTrainer({ numTrainEpochs: 40 }, async (trainer, policy) => {
      expect(trainer.totalSteps).toBe(80);
      const { report, steps, stopped } = await trainer.train();
      expect({ steps, stopped }).toEqual({ steps: 80, stopped: false });
      expect(report!.loss).toBeLessThan(0.05);
      const completions = await policy.generate(['3+1=', '8+1='], { maxNewTokens: 5, temperature: 0 });
      return completions.map(([completion]) => completion!.text);
    });
    expect(said).toEqual(['4', '9']);
  });

  it('has the mean negative log-prob of the completion and its end token as loss', async () => {
    await withTrainer({ perDeviceTrainBatchSize: 10, shuffleDataset: false, maxSteps: 1 }, async (trainer, policy) => {
      const { tokenizer } = policy;
      const sequences = rows.map(({ prompt, completion }) => ({
        promptIds: tokenizer.encode(prompt),
        completionIds: [...tokenizer.encode(completion), tokenizer.eosTokenId!],
      }));
      const logProbs = (await policy.logProbs(sequences)).flatMap((row) => [...row]);
      const { report } = await trainer.train();
      expect(report!.loss).toBeCloseTo(-logProbs.reduce((sum, lp) => sum + lp, 0) / logProbs.length, 5);
      expect(report!.metrics.num_tokens).toBe(10 * 4 + logProbs.length);
    });
  });

  it('does not depend on how a batch is cut into micro-batches', async () => {
    const run = (perDeviceTrainBatchSize: number, gradientAccumulationSteps: number) =>
      withTrainer({ perDeviceTrainBatchSize, gradientAccumulationSteps, maxSteps: 2 }, async (trainer, policy) => {
        const { report } = await trainer.train();
        return { report: report!, weights: (await policy.parameters.flat.read()) as Float32Array };
      });
    const whole = await run(8, 1);
    const cut = await run(2, 4);
    expect(cut.report.loss).toBeCloseTo(whole.report.loss, 5);
    expect(Math.max(...cut.weights.map((weight, i) => Math.abs(weight - whole.weights[i]!)))).toBeLessThan(1e-4);
  });

  it('reports the held-out loss', async () => {
    const tracker = new RecordingTracker();
    await withTrainer(
      { evalDataset: rows.slice(0, 4), evalSteps: 2, evalOnStart: true, maxSteps: 5, tracker },
      (trainer) => trainer.train(),
    );
    const evaluated = tracker.entries.filter(({ values }) => 'eval/loss' in values);
    expect(evaluated.map(({ step }) => step)).toEqual([0, 2, 4, 5]);
    const losses = evaluated.map(({ values }) => values['eval/loss']!);
    expect(losses.at(-1)).toBeLessThan(losses[0]!);
    expect(tracker.finished).toBe(1);
  });

  it('goes on from a checkpoint with the same bits', async () => {
    const options = {
      maxSteps: 6,
      lrSchedulerType: 'cosine',
      warmupSteps: 2,
      weightDecay: 0.1,
      outputDir: folder,
    } as const;
    const bits = async (trainer: SFTTrainer, policy: CausalLM) => {
      const { report } = await trainer.train();
      return { loss: report!.loss, weights: await policy.parameters.flat.readBytes() };
    };
    const unbroken = await withTrainer(options, bits);
    const saved = await withTrainer(options, async (trainer) => {
      for await (const { step } of trainer) if (step === 3) break;
      return trainer.save();
    });
    expect(saved).toBe(join(folder, 'checkpoint-3'));
    const resumed = await withTrainer(options, async (trainer, policy) => {
      await trainer.resume(saved);
      expect(trainer.globalStep).toBe(3);
      return bits(trainer, policy);
    });
    expect(resumed).toEqual(unbroken);
  });

  it('says what is wrong with a demonstration', async () => {
    const create = (dataset: SFTTrainerOptions['dataset']) => withTrainer({ dataset }, async () => {});
    await expect(create([])).rejects.toThrow(/at least one row for dataset/);
    await expect(create([rows[0]!, { prompt: 'a' }])).rejects.toThrow(/no completion.*dataset\[1\]/);
    const tooLong = { dataset: [{ prompt: '1'.repeat(20), completion: '1' }], maxLength: 10 };
    await expect(withTrainer(tooLong, (trainer) => trainer.train())).rejects.toThrow(
      /maxLength \(10\) after a prompt of 20/,
    );
  });
});
