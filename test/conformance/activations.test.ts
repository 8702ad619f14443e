import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { CausalLM } from '../../src/models/causal-lm.js';
import '../../src/platform/node.js';
import { type Device, Scope } from '../../src/tensor.js';
import { GRPOTrainer } from '../../src/trainer/grpo-trainer.js';
import { SFTTrainer } from '../../src/trainer/sft-trainer.js';
import { testDevices } from '../devices.js';
import { suiteDevice } from '../suite-device.js';
import { tinyPolicy } from '../tiny-model.js';
import { families, fixture, fixtureFolder } from '../unit/models/fixtures.js';

/** What scripts/fixtures/models_bf16.py writes for a model: what it is in float32, and how far transformers in bf16 is. */
interface Expected {
  logProbs: number[];
  entropy: number[];
  /** Root mean squares. */
  logProbsError: number;
  entropyError: number;
  /** By weight; the error relative to the norm. */
  gradients: Record<string, { norm: number; error: number }>;
}

const expected: Record<string, Expected> = JSON.parse(
  readFileSync(new URL('../fixtures/models/bf16.json', import.meta.url), 'utf8'),
);

const rootMeanSquare = (values: ArrayLike<number>) => Math.hypot(...Array.from(values)) / Math.sqrt(values.length);
const differences = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  expect(a.length).toBe(b.length);
  return Float64Array.from(a, (x, i) => x - b[i]!);
};
const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));

describe.each(await testDevices())('activations in bf16 on $name', ({ name, open }) => {
  let device: Device;
  suiteDevice(open, (opened) => {
    device = opened;
  });

  /** The model of a fixture, its weights in bf16 and changed by `alter`: log-probs, entropy, and gradients by weight. */
  async function compute(model: string, activations: 'f32' | 'bf16', alter?: (policy: CausalLM) => Promise<void>) {
    const { sequences, temperature, coefficients, entropyCoefficients } = fixture(model);
    using scope = new Scope();
    using policy = await CausalLM.load(fixtureFolder(model), { device, dtype: 'bf16', activations });
    await alter?.(policy);
    policy.parameters.enableGradients();
    const upstream = [coefficients, entropyCoefficients].map((values) =>
      scope.track(device.tensor(values, [values.length])),
    );
    using scores = policy.score(sequences, { temperature, gradients: true, entropy: true });
    const logProbs = await scores.logProbs.read();
    const entropy = await scores.entropy!.read();
    scores.backward(upstream[0]!, upstream[1]!);
    const gradients = new Map<string, Float32Array>();
    for (const { name: weight, grad } of policy.parameters) {
      gradients.set(weight, (await grad!.read()) as Float32Array);
    }
    return { logProbs, entropy, gradients };
  }

  // All on the CPU; elsewhere the one with norms of queries and keys.
  describe.each(name.startsWith('cpu') ? families : (['qwen3'] as const))('%s', (model) => {
    const peer = expected[model]!;

    test('is about as near to float32 as transformers in bf16 is', async () => {
      const truth = await compute(model, 'f32');
      expect(rootMeanSquare(differences(truth.logProbs, peer.logProbs))).toBeLessThan(1e-5);
      const actual = await compute(model, 'bf16');
      const ratios = {
        logProbs: rootMeanSquare(differences(actual.logProbs, peer.logProbs)) / peer.logProbsError,
        entropy: rootMeanSquare(differences(actual.entropy, peer.entropy)) / peer.entropyError,
      };
      const errors: number[] = [];
      for (const [weight, { norm: size, error: peerError }] of Object.entries(peer.gradients)) {
        const exact = truth.gradients.get(weight)!;
        expect(Math.abs(norm(exact) / size - 1), weight).toBeLessThan(1e-4);
        const error = Math.hypot(...differences(actual.gradients.get(weight)!, exact)) / size;
        expect(error / peerError, weight).toBeLessThan(2);
        errors.push(error);
      }
      const gradients = rootMeanSquare(errors) / rootMeanSquare(Object.values(peer.gradients).map((g) => g.error));
      for (const [what, ratio] of Object.entries({ ...ratios, gradients })) {
        expect(ratio, what).toBeLessThan(1.35);
        expect(ratio, `${what}: nothing was rounded`).toBeGreaterThan(0.25);
      }
    });

    test('and a wrong weight would show', async () => {
      const actual = await compute(model, 'bf16', async ({ parameters }) => {
        const { value } = parameters.get('model.layers.1.input_layernorm.weight');
        value.write(((await value.read()) as Float32Array).map((x, i) => (i % 4 === 0 ? x * 1.1 : x)));
      });
      const error = rootMeanSquare(differences(actual.logProbs, peer.logProbs));
      expect(error / peer.logProbsError).toBeGreaterThan(1.35);
    });
  });

  test('log-probs of samples are those that the trainer computes', async () => {
    const options = { device, dtype: 'bf16', activations: 'bf16', seed: 3 } as const;
    using policy = tinyPolicy(options, { modelType: 'qwen3', headDim: 24, tieWordEmbeddings: false });
    const prompts = ['12+7=', 'a', 'the quick brown fox'];
    const sampling = { maxNewTokens: 20, seed: 5, n: 2, temperature: 0.7, stopTokenIds: [] };
    const sampled = await policy.generate(prompts, sampling);
    const sequences = sampled.flatMap((row, i) =>
      row.map(({ completionIds }) => ({ promptIds: policy.tokenizer.encode(prompts[i]!), completionIds })),
    );
    const logProbs = sampled.flat().map((completion) => completion.logProbs);
    const scored = await policy.logProbs(sequences, { temperature: 0.7 });
    expect(new Set(scored.map((row) => row.join())).size).toBe(sequences.length);
    if (!name.startsWith('cuda')) {
      expect(logProbs).toEqual(scored);
      return;
    }
    // Decoding adds up attention in an order of its own there, and cuBLAS rounds a row by the number of rows.
    const apart = (rows: readonly Float32Array[]) =>
      rootMeanSquare(
        differences(
          rows.flatMap((row) => [...row]),
          logProbs.flatMap((row) => [...row]),
        ),
      );
    expect(apart(scored)).toBeLessThan(0.01);
    expect(apart(await policy.logProbs(sequences, { temperature: 0.72 }))).toBeGreaterThan(0.02);
  });

  test('gradients are the same with checkpointing, bit for bit', async () => {
    using policy = tinyPolicy({ device, dtype: 'bf16', activations: 'bf16', seed: 3 });
    policy.parameters.enableGradients();
    const completionIds = [3, 4, 5, 6, 7];
    const upstream = device.tensor([1, -0.5, 2, 0, 0.25], [5]);
    const gradients = async (gradientCheckpointing: boolean) => {
      policy.parameters.zeroGradients();
      using scores = policy.score([{ promptIds: [9, 8], completionIds }], { gradients: true, gradientCheckpointing });
      scores.backward(upstream);
      return (await policy.parameters.gradients!.read()) as Float32Array;
    };
    const kept = await gradients(false);
    expect(norm(kept)).toBeGreaterThan(0.1);
    expect(await gradients(true)).toEqual(kept);
    upstream.dispose();
  });

  test('cloning has the losses of f32 up to bf16', async () => {
    const run = async (activations: 'f32' | 'bf16') => {
      using policy = tinyPolicy({ device, seed: 3, dtype: 'bf16', activations });
      const dataset = Array.from({ length: 8 }, (_, i) => ({ prompt: `${i}+2=`, completion: `${i + 2}` }));
      const options = { maxSteps: 10, perDeviceTrainBatchSize: 4, learningRate: 2e-3 };
      await using trainer = await SFTTrainer.create({ policy, dataset, ...options });
      const losses: number[] = [];
      for await (const { loss } of trainer) losses.push(loss);
      return losses;
    };
    const [actual, truth] = [await run('bf16'), await run('f32')];
    expect(actual).toHaveLength(10);
    actual.forEach((loss, i) => {
      expect(Math.abs(loss - truth[i]!)).toBeLessThan(3e-2);
    });
    expect(actual).not.toEqual(truth);
    expect(truth.at(-1)).toBeLessThan(0.9 * truth[0]!);
  });

  test('updates on given completions have the losses and gradients of f32 up to bf16', async () => {
    const run = async (activations: 'f32' | 'bf16') => {
      using policy = tinyPolicy({ device, seed: 3, dtype: 'bf16', activations });
      const rollouts = Array.from({ length: 8 }, (_, i) => ({
        group: i >> 2,
        promptIds: Int32Array.of(1, 2 + (i >> 2)),
        completionIds: Int32Array.from({ length: 4 }, (_, t) => (7 * i + 5 * t) % 40),
        reward: (i * i) % 5,
      }));
      const options = { perDeviceTrainBatchSize: 8, numGenerations: 4, maxCompletionLength: 4, maxSteps: 4 };
      await using trainer = await GRPOTrainer.create({ policy, ...options, learningRate: 2e-3, beta: 0.1 });
      const reports = [];
      for (let i = 0; i < 4; i++) reports.push(await trainer.step(rollouts));
      return reports;
    };
    const [actual, truth] = [await run('bf16'), await run('f32')];
    actual.forEach(({ loss, gradNorm }, i) => {
      expect(Math.abs(loss - truth[i]!.loss)).toBeLessThan(1e-2);
      expect(Math.abs(gradNorm / truth[i]!.gradNorm - 1)).toBeLessThan(5e-2);
    });
    expect(actual[0]!.gradNorm).not.toBe(truth[0]!.gradNorm);
    expect(Math.max(...truth.map(({ gradNorm }) => gradNorm))).toBeGreaterThan(0.1);
  });
});
