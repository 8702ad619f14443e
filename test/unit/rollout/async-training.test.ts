import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import { AsyncRolloutEngine } from '../../../src/rollout/async-engine.js';
import { OpenAIEngine } from '../../../src/rollout/openai-engine.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer, type GRPOTrainerOptions } from '../../../src/trainer/grpo-trainer.js';
import { type Serving, startServing } from '../serve/serving.js';

let device: Device;
let serving: Serving;
beforeAll(async () => {
  serving = await startServing();
  device = await openDevice('cpu', { matmul: 'builtin', threads: 1 });
});
afterAll(async () => {
  await serving.close();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const digits = (batch: readonly { completion: string }[]) =>
  batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length / 8);
const run = {
  dataset: ['12+7=', 'a', '3*3', 'b', 'c'].map((prompt) => ({ prompt })),
  rewards: [digits],
  maxSteps: 6,
  numGenerations: 4,
  perDeviceTrainBatchSize: 8,
  maxCompletionLength: 8,
  learningRate: 1e-2,
  rolloutCorrection: 'token-truncate',
} satisfies Partial<GRPOTrainerOptions>;

/** Trains on the server, and tells what was asked of it and what the updates reported. */
async function train(lookahead: number, options: Partial<GRPOTrainerOptions> = {}) {
  const policy = CausalLM.create(serving.policy.config, serving.policy.tokenizer, { device, seed: 4 });
  policy.parameters.enableGradients();
  const weights = { folder: serving.weightsDir };
  const remote = new OpenAIEngine({ kind: 'grpo', url: serving.url, model: 'tiny', policy, weights });
  const seeds: number[] = [];
  const generate = remote.generate.bind(remote);
  remote.generate = (prompts, asked) => {
    seeds.push(asked.seed!);
    return generate(prompts, asked);
  };
  const engine = lookahead > 0 ? new AsyncRolloutEngine(remote, { maxStaleness: lookahead }) : remote;
  try {
    const trainer = await GRPOTrainer.create({ ...run, ...options, policy, engine });
    const metrics: Record<string, number>[] = [];
    for await (const report of trainer) metrics.push(report.metrics);
    await trainer.close();
    return { seeds, metrics, staleness: metrics.map((m) => m['rollout/staleness']) };
  } finally {
    await engine.close();
    policy.dispose();
  }
}

describe('training ahead', () => {
  it('samples the next completions during the update, one update old, and asks for nothing twice or in vain', async () => {
    const [ahead, behind] = [await train(1), await train(0)];
    expect(ahead.staleness).toEqual([0, 1, 1, 1, 1, 1]);
    expect(behind.staleness).toEqual([0, 0, 0, 0, 0, 0]);
    expect(ahead.seeds).toEqual(behind.seeds);
    expect(new Set(ahead.seeds).size).toBe(6);
    // The first batch is the same; what follows was sampled with older weights, which the correction sees.
    expect(ahead.metrics[0]!.reward).toBe(behind.metrics[0]!.reward);
    expect(ahead.metrics[2]).not.toEqual(behind.metrics[2]);
  });

  it('goes at most as many updates ahead as it may', async () => {
    const { staleness, seeds } = await train(3);
    expect(staleness).toEqual([0, 1, 2, 3, 3, 3]);
    expect(seeds).toHaveLength(6);
  });

  it('needs the correction for what is old', async () => {
    await expect(train(1, { rolloutCorrection: null })).rejects.toThrow(/rolloutCorrection/);
  });
});
