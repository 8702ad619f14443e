import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { Device, Tensor } from '../../../src/tensor.js';
import { families, fixture, fixtureFolder, summaryError } from './fixtures.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const floats = async (tensor: Tensor) => (await tensor.read()) as Float32Array;
const largestDifference = (a: ArrayLike<number>, b: readonly number[]) => {
  expect(a.length).toBe(b.length);
  return Math.max(...b.map((x, i) => Math.abs(a[i]! - x)));
};

describe.each(families)('%s computes what transformers does:', (name) => {
  const expected = fixture(name);
  const { sequences, temperature } = expected;
  let policy: CausalLM;
  beforeAll(async () => {
    policy = await CausalLM.load(fixtureFolder(name), { device });
  });
  afterAll(() => policy.dispose());

  it('log-probs', async () => {
    const logProbs = await policy.logProbs(sequences, { temperature });
    expect(logProbs.map((x) => x.length)).toEqual(sequences.map((s) => s.completionIds.length));
    const packed = logProbs.flatMap((x) => [...x]);
    expect(largestDifference(packed, expected.logProbs)).toBeLessThan(2e-5);
  });

  it('greedy continuations, ended by the stop tokens of the model', async () => {
    const prompts = expected.greedy.map(({ promptIds }) => promptIds);
    const completions = await policy.generate(prompts, { maxNewTokens: 24, temperature: 0, stopTokenIds: [0, 2] });
    expect(completions.map(([c]) => [...c!.completionIds])).toEqual(expected.greedy.map(({ ids }) => ids));
  });

  it.each([false, true])(
    'gradients, and the weights after a step of AdamW (checkpointing: %s)',
    async (checkpointing) => {
      const trained = policy.clone({ frozen: false });
      const { parameters } = trained;
      const count = expected.coefficients.length;
      const gradLogProbs = device.tensor(expected.coefficients, [count]);
      const gradEntropy = device.tensor(expected.entropyCoefficients, [count]);
      const options = { temperature, gradients: true, entropy: true, gradientCheckpointing: checkpointing };
      const scores = trained.score(sequences, options);
      expect(largestDifference(await floats(scores.entropy!), expected.entropy)).toBeLessThan(2e-5);
      scores.backward(gradLogProbs, gradEntropy);
      for (const tensor of [gradLogProbs, gradEntropy, scores]) tensor.dispose();
      for (const { name: weight, grad } of parameters) {
        expect(summaryError(await floats(grad!), expected.gradients[weight]!), weight).toBeLessThan(1e-4);
      }

      const firstMoment = device.zeros([parameters.count]);
      const secondMoment = device.zeros([parameters.count]);
      const { weightDecay, ...adamw } = expected.adamw;
      for (const [group, decay] of [
        [parameters.groups.decay, weightDecay],
        [parameters.groups.noDecay, 0],
      ] as const) {
        const part = (whole: Tensor) => whole.view([group.count], group.offset);
        const views = [parameters.flat, parameters.gradients!, firstMoment, secondMoment].map(part);
        const [weights, gradients, first, second] = views as [Tensor, Tensor, Tensor, Tensor];
        device.run('adamw', {
          parameters: weights,
          gradients,
          firstMoment: first,
          secondMoment: second,
          ...adamw,
          weightDecay: decay,
          step: 1,
          maxNorm: 0,
        });
        for (const view of views) view.dispose();
      }
      for (const { name: weight, value } of parameters) {
        expect(summaryError(await floats(value), expected.updated[weight]!), weight).toBeLessThan(1e-5);
      }
      const after = (await trained.logProbs(sequences, { temperature })).flatMap((x) => [...x]);
      expect(largestDifference(after, expected.updatedLogProbs)).toBeLessThan(5e-5);
      for (const owner of [firstMoment, secondMoment, trained]) owner.dispose();
    },
  );

  it('and a wrong weight would show', async () => {
    const wrong = policy.clone();
    const norm = wrong.parameters.get('model.layers.1.input_layernorm.weight').value;
    norm.write((await floats(norm)).map((x, i) => (i === 3 ? x * 1.02 : x)));
    const packed = (await wrong.logProbs(sequences, { temperature })).flatMap((x) => [...x]);
    expect(largestDifference(packed, expected.logProbs)).toBeGreaterThan(2e-5);
    wrong.dispose();
  });
});

describe.each(['llama-sharded', 'llama-bf16', 'llama-f16'])('%s', (name) => {
  const expected = fixture(name);

  it('is read into f32', async () => {
    const policy = await CausalLM.load(fixtureFolder(name), { device, dtype: 'f32' });
    const packed = (await policy.logProbs(expected.sequences, expected)).flatMap((x) => [...x]);
    expect(largestDifference(packed, expected.logProbs)).toBeLessThan(2e-5);
    policy.dispose();
  });

  it('is read in its own dtype, and computed in f32', async () => {
    const policy = await CausalLM.load(fixtureFolder(name), { device });
    expect(policy.parameters.dtype).toBe({ 'llama-sharded': 'f32', 'llama-bf16': 'bf16', 'llama-f16': 'f16' }[name]);
    const packed = (await policy.logProbs(expected.sequences, expected)).flatMap((x) => [...x]);
    expect(largestDifference(packed, expected.logProbs)).toBeLessThan(2e-5);
    policy.dispose();
  });
});
