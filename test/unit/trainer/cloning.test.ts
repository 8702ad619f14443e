import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import type { DemonstrationRecord } from '../../../src/data/records.js';
import { FileFormatError } from '../../../src/errors.js';
import '../../../src/platform/node.js';
import type { Device } from '../../../src/tensor.js';
import { Cloning } from '../../../src/trainer/cloning.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../../src/trainer/grpo-trainer.js';
import { parseGRPOConfig } from '../../../src/trainer/parse-config.js';
import type { Rollout } from '../../../src/trainer/rollout.js';
import { SFTTrainer } from '../../../src/trainer/sft-trainer.js';
import { tinyPolicy } from '../../tiny-model.js';

let device: Device;
let folder: string;
beforeAll(async () => {
  device = await openDevice('cpu');
  folder = mkdtempSync(join(tmpdir(), 'cloning-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const demonstrations: DemonstrationRecord[] = [
  { prompt: '1=', completion: 'one' },
  { prompt: '22=', completion: 'a b' },
];
const unequal = [...demonstrations, { prompt: '3=', completion: 'a long one' }];
/** One that teaches nothing, so that the update is the cloning alone. */
const neutral: Rollout = {
  group: 0,
  promptIds: Int32Array.of(9),
  completionIds: Int32Array.of(10, 11),
  advantage: 0,
};
const step = { lrSchedulerType: 'constant', learningRate: 1e-2, sftCoefficient: 1, sftBatchSize: 2 } as const;

async function cloneOnce(options: Partial<GRPOTrainerOptions>, rollouts = [neutral]) {
  const policy = tinyPolicy({ device, seed: 1 });
  try {
    await using trainer = await GRPOTrainer.create({ policy, demonstrations, ...step, ...options });
    const report = await trainer.step(rollouts);
    return { report, weights: await policy.parameters.flat.read() };
  } finally {
    policy.dispose();
  }
}

describe('cloning inside GRPO', () => {
  it('alone makes the update of SFTTrainer, for replies of one length', async () => {
    const policy = tinyPolicy({ device, seed: 1 });
    try {
      const options = { dataset: demonstrations, perDeviceTrainBatchSize: 2, maxSteps: 1 };
      await using trainer = await SFTTrainer.create({
        policy,
        ...options,
        lrSchedulerType: 'constant',
        learningRate: 1e-2,
      });
      const { report } = await trainer.train();
      const cloned = await cloneOnce({});
      expect(cloned.report.metrics.sft_loss).toBeCloseTo(report!.loss, 6);
      expect(cloned.report.gradNorm).toBeCloseTo(report!.gradNorm, 5);
      const expected = await policy.parameters.flat.read();
      cloned.weights.forEach((weight, i) => {
        expect(Math.abs(weight - expected[i]!)).toBeLessThan(1e-4);
      });
    } finally {
      policy.dispose();
    }
  });

  it.each(['completion', 'all'] as const)('takes the mean over replies of the mean of %s tokens', async (sftTokens) => {
    const policy = tinyPolicy({ device, seed: 1 });
    const means: number[] = [];
    try {
      const encode = (text: string) => [...policy.tokenizer.encode(text)];
      for (const { prompt, completion } of unequal) {
        const prompted = encode(prompt!);
        const said = [...encode(completion), policy.tokenizer.eosTokenId!];
        const sequence =
          sftTokens === 'all'
            ? { promptIds: prompted.slice(0, 1), completionIds: [...prompted.slice(1), ...said] }
            : { promptIds: prompted, completionIds: said };
        const [values] = await policy.logProbs([sequence]);
        means.push(-values!.reduce((sum, value) => sum + value, 0) / values!.length);
      }
    } finally {
      policy.dispose();
    }
    const expected = means.reduce((sum, value) => sum + value, 0) / 3;
    const options = { demonstrations: unequal, sftBatchSize: 3, sftTokens, sftCoefficient: 0.5 };
    const { report } = await cloneOnce({ ...options, perDeviceTrainBatchSize: 2 });
    expect(report.metrics.sft_loss).toBeCloseTo(expected, 5);
    expect(report.loss).toBeCloseTo(0.5 * expected, 5);
  });

  it('adds to the gradient of the policy loss', async () => {
    const rollouts = [{ ...neutral, advantage: 1 }];
    const norms = await Promise.all(
      [{ sftCoefficient: 0, sftBatchSize: null }, { sftCoefficient: 1e-9 }, { sftCoefficient: 1 }].map(
        async (options) => (await cloneOnce(options, rollouts)).report.gradNorm,
      ),
    );
    expect(norms[1]).toBeCloseTo(norms[0]!, 6);
    expect(Math.abs(norms[2]! - norms[0]!)).toBeGreaterThan(1e-2);
  });

  it('takes as many replies as the update has completions unless told, and reshuffles each pass', () => {
    const policy = tinyPolicy({ device, seed: 1 });
    try {
      const rows = Array.from({ length: 8 }, (_, i) => ({ prompt: '=', completion: String(i) }));
      const config = parseGRPOConfig({ perDeviceTrainBatchSize: 4, gradientAccumulationSteps: 2, sftCoefficient: 1 });
      const cloning = new Cloning(policy, rows, config);
      const pass = () => cloning.next().map(({ completionIds }) => completionIds[0]!);
      const [first, second] = [pass(), pass()];
      expect(first).not.toEqual(second);
      expect(first.toSorted((a, b) => a - b)).toEqual(second.toSorted((a, b) => a - b));
      expect(new Set(first).size).toBe(8);
      const again = new Cloning(policy, rows, config);
      again.restore({ epoch: 1, position: 0, rows: 8 }, 'checkpoint');
      expect(again.next().map(({ completionIds }) => completionIds[0])).toEqual(second);
    } finally {
      policy.dispose();
    }
  });

  it('goes on from a checkpoint with the same bits, and refuses other demonstrations', async () => {
    const rewards = [
      { name: 'length', score: (batch: readonly { completion: string }[]) => batch.map((s) => s.completion.length) },
    ];
    const options = {
      dataset: [{ prompt: '1=' }, { prompt: '2=' }, { prompt: '3=' }],
      demonstrations: unequal,
      rewards,
      numGenerations: 2,
      perDeviceTrainBatchSize: 2,
      maxCompletionLength: 3,
      learningRate: 1e-2,
      sftCoefficient: 1,
      maxSteps: 5,
    } satisfies Partial<GRPOTrainerOptions>;
    const run = async (changes: Partial<GRPOTrainerOptions>, from?: string) => {
      const policy = tinyPolicy({ device, seed: 1 });
      try {
        await using trainer = await GRPOTrainer.create({ policy, ...options, ...changes });
        if (from) await trainer.resume(from);
        await trainer.train();
        return await policy.parameters.flat.readBytes();
      } finally {
        policy.dispose();
      }
    };
    const outputDir = join(folder, 'run');
    const whole = await run({ outputDir, saveSteps: 2 });
    expect(await run({}, join(outputDir, 'checkpoint-2'))).toEqual(whole);
    const other = run({ demonstrations }, join(outputDir, 'checkpoint-2')).catch((error: unknown) => error);
    expect(await other).toBeInstanceOf(FileFormatError);
  });

  it('needs demonstrations', async () => {
    await expect(cloneOnce({ demonstrations: undefined })).rejects.toThrow(/demonstrations/);
    await expect(cloneOnce({ demonstrations: [{ prompt: 'no reply' }] })).rejects.toThrow(/demonstrations\[0\]/);
  });
});
