import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { InvalidArgumentError } from '../../../src/errors.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { Completion, GenerateOptions } from '../../../src/rollout/engine.js';
import { NativeEngine, type NativeEngineOptions } from '../../../src/rollout/native-engine.js';
import type { Device } from '../../../src/tensor.js';
import { cudaOnCpu, openCudaOnCpu } from '../../devices.js';
import { tinyPolicy } from '../../tiny-model.js';

const prompts = ['12+7=', 'a', 'the quick brown fox jumps over the lazy dog. ', '3*3'];
/** No stop token, so that lengths are known. */
const sampling = { maxNewTokens: 12, seed: 5, stopTokenIds: [] };

/** Samples, and the log-probs that the trainer computes for the same tokens. */
async function sampleAndScore(policy: CausalLM, texts: readonly string[], options: GenerateOptions) {
  const completions = (await policy.generate(texts, options)).flat();
  const sequences = completions.map(({ completionIds }, i) => {
    return { promptIds: policy.tokenizer.encode(texts[Math.floor(i / (options.n ?? 1))]!), completionIds };
  });
  const scored = await policy.logProbs(sequences, { temperature: options.temperature ?? 1 });
  return { sampled: completions.map(({ logProbs }) => logProbs), scored };
}

/** Runs a suite on a device with a policy, and checks that nothing is left over. */
function withPolicy(open: () => Promise<Device>, run: (get: () => CausalLM) => void): void {
  let device: Device;
  let policy: CausalLM;
  beforeAll(async () => {
    device = await open();
    policy = tinyPolicy({ device });
  });
  afterAll(() => {
    policy.dispose();
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });
  run(() => policy);
}

const ids = (completions: Completion[][]) => completions.map((row) => row.map((c) => [...c.completionIds]));

describe('with the built-in matrix product', () => {
  withPolicy(
    () => openDevice('cpu', { matmul: 'builtin' }),
    (get) => {
      it('the log-probs of samples are those that the trainer computes, bit for bit', async () => {
        const options = { ...sampling, n: 3, temperature: 0.7 };
        const { sampled, scored } = await sampleAndScore(get(), prompts, options);
        expect(sampled).toEqual(scored);
      });

      it('so they are for weights in bf16, with normed queries and keys, and with a head of its own', async () => {
        const policy = tinyPolicy(
          { device: get().device, dtype: 'bf16' },
          { modelType: 'qwen3', headDim: 24, tieWordEmbeddings: false },
        );
        const { sampled, scored } = await sampleAndScore(policy, prompts, { ...sampling, n: 2 });
        expect(sampled).toEqual(scored);
        policy.dispose();
      });

      it('so they are when the prompts are more than go through the model at a time', async () => {
        const many = Array.from({ length: 45 }, (_, i) => `${i} `.repeat(60).slice(0, 100));
        const { sampled, scored } = await sampleAndScore(get(), many, { ...sampling, maxNewTokens: 2 });
        expect(sampled).toEqual(scored);
      });

      it('a sample depends on its seed and place, not on its batch', async () => {
        const policy = get();
        const all = await policy.generate(prompts, { ...sampling, n: 4 });
        const first = await policy.generate(prompts.slice(0, 1), { ...sampling, n: 4 });
        expect(first[0]).toEqual(all[0]);
        const other = await policy.generate(prompts, { ...sampling, n: 4, seed: 6 });
        expect(ids(other)).not.toEqual(ids(all));
        expect(new Set(ids(all)[0]!.map(String)).size).toBe(4);
      });

      it.each<[string, NativeEngineOptions]>([
        ['a cache for one row at a time', { cacheBytes: 1 }],
        ['a cache for some rows', { cacheBytes: 60 * 2 * 2 * 16 * 4 }],
        ['logits for one row at a time', { workspaceBytes: 1 }],
      ])('%s changes nothing', async (_, options) => {
        const policy = get();
        const promptIds = prompts.map((prompt) => policy.tokenizer.encode(prompt));
        const plain = await new NativeEngine(policy).generate(promptIds, { ...sampling, n: 3 });
        const bounded = await new NativeEngine(policy, options).generate(promptIds, { ...sampling, n: 3 });
        expect(bounded).toEqual(plain);
      });

      it('rows that end early do not disturb the others', async () => {
        const policy = get();
        const options = { ...sampling, n: 6, maxNewTokens: 30 };
        const whole = (await policy.generate(prompts, options)).flat();
        const stop = [whole[0]!.completionIds[3]!, whole[5]!.completionIds[8]!];
        const stopped = (await policy.generate(prompts, { ...options, stopTokenIds: stop })).flat();
        stopped.forEach(({ completionIds, logProbs, stopReason }, i) => {
          const { completionIds: full, logProbs: fullLogProbs } = whole[i]!;
          const at = full.findIndex((id) => stop.includes(id));
          const length = at < 0 ? full.length : at + 1;
          expect([...completionIds]).toEqual([...full.slice(0, length)]);
          expect(logProbs).toEqual(fullLogProbs.slice(0, length));
          expect(stopReason).toBe(at < 0 ? 'length' : 'stop');
        });
        expect(new Set(stopped.map((c) => c.completionIds.length)).size).toBeGreaterThan(2);
      });
    },
  );
});

/** Expects samples whose log-probs are those that the trainer computes, to rounding. */
async function expectScoresNear(policy: CausalLM, texts: readonly string[]) {
  const { sampled, scored } = await sampleAndScore(policy, texts, { ...sampling, n: 3 });
  const differences = sampled.flatMap((row, i) => Array.from(row, (x, t) => Math.abs(x - scored[i]![t]!)));
  expect(differences).toHaveLength(texts.length * 3 * sampling.maxNewTokens);
  expect(Math.max(...differences)).toBeLessThan(1e-5);
}

describe('with the matrix product of the machine', () => {
  withPolicy(
    () => openDevice('cpu'),
    (get) => {
      it('the log-probs of samples are those that the trainer computes, to 1e-5', async () => {
        await expectScoresNear(get(), prompts);
      });

      it('greedy decoding takes the likeliest token, whatever the seed', async () => {
        const policy = get();
        const options = { ...sampling, temperature: 0 };
        const [a, b] = [
          await policy.generate(prompts, options),
          await policy.generate(prompts, { ...options, seed: 9 }),
        ];
        expect(ids(a)).toEqual(ids(b));
        const cold = await policy.generate(prompts, { ...sampling, topK: 1 });
        expect(ids(cold)).toEqual(ids(a));
      });

      it('filters keep to the likeliest tokens', async () => {
        const policy = get();
        for (const filter of [{ topP: 1e-6 }, { minP: 1 }, { topK: 1 }]) {
          const sampled = await policy.generate(['12+'], { ...sampling, ...filter });
          const greedy = await policy.generate(['12+'], { ...sampling, temperature: 0 });
          expect(ids(sampled)).toEqual(ids(greedy));
        }
      });

      it('a stop token ends a completion and belongs to it, but not to its text', async () => {
        const policy = get();
        const { tokenizer } = policy;
        const end = tokenizer.eosTokenId!;
        expect(policy.stopTokenIds).toEqual([end]);
        const rows = (await policy.generate(prompts, { maxNewTokens: 100, n: 8, temperature: 1.5 })).flat();
        const stopped = rows.filter((c) => c.stopReason === 'stop');
        expect(stopped.length).toBeGreaterThan(0);
        for (const { completionIds, text, logProbs } of stopped) {
          expect(completionIds.indexOf(end)).toBe(completionIds.length - 1);
          expect(text).toBe(tokenizer.decode(completionIds));
          expect(text).not.toContain('<|end|>');
          expect(logProbs.length).toBe(completionIds.length);
        }
      });

      it('a stop string ends a completion: the text is cut before it, the ids are kept', async () => {
        const policy = get();
        const [[plain]] = (await policy.generate(['a'], { ...sampling, maxNewTokens: 40 })) as [[Completion]];
        const stop = plain!.text.slice(6, 9);
        const expected = plain!.text.indexOf(stop);
        const options = { ...sampling, maxNewTokens: 40, stop: ['never here', stop] };
        const [[cut]] = (await policy.generate(['a'], options)) as [[Completion]];
        expect(cut!.text).toBe(plain!.text.slice(0, expected));
        expect(policy.tokenizer.decode(cut!.completionIds).endsWith(stop)).toBe(true);
        expect(cut!.stopReason).toBe('stop');
        expect(cut!.logProbs.length).toBe(cut!.completionIds.length);
      });

      it('the context of the model ends a completion', async () => {
        const policy = get();
        const prompt = new Int32Array(120).fill(5);
        const [[completion]] = (await policy.generate([prompt], { ...sampling, maxNewTokens: 50 })) as [[Completion]];
        expect(completion!.completionIds.length).toBe(8);
        expect(completion!.stopReason).toBe('length');
      });

      it('no prompts give no completions, and one token may be all', async () => {
        const policy = get();
        expect(await policy.generate([], sampling)).toEqual([]);
        const one = await policy.generate(prompts, { ...sampling, maxNewTokens: 1 });
        expect(one.map(([c]) => c!.completionIds.length)).toEqual([1, 1, 1, 1]);
      });

      it('an abort rejects with its reason and frees everything', async () => {
        const policy = get();
        const before = policy.device.memory().liveTensors;
        const reason = new Error('enough');
        const early = AbortSignal.abort(reason);
        await expect(policy.generate(prompts, { ...sampling, signal: early })).rejects.toBe(reason);
        const controller = new AbortController();
        const running = policy.generate(prompts, { ...sampling, maxNewTokens: 80, signal: controller.signal });
        setTimeout(() => controller.abort(reason), 5);
        await expect(running).rejects.toBe(reason);
        expect(policy.device.memory().liveTensors).toBe(before);
      });

      it.each([
        [{ maxNewTokens: 0 }, /maxNewTokens/],
        [{ maxNewTokens: 1.5 }, /maxNewTokens/],
        [{ n: 0 }, /a whole number of at least 1 for n/],
        [{ temperature: -1 }, /temperature/],
        [{ temperature: Number.NaN }, /temperature/],
        [{ topK: -1 }, /topK/],
        [{ topP: 0 }, /topP/],
        [{ minP: 2 }, /minP/],
        [{ seed: 0.5 }, /seed/],
        [{ stop: [''] }, /stop\[0\]/],
        [{ stopTokenIds: [999] }, /stopTokenIds\[0\]/],
      ])('%j is refused', async (extra, message) => {
        const generating = get().generate(prompts, { ...sampling, ...extra });
        await expect(generating).rejects.toThrow(InvalidArgumentError);
        await expect(generating).rejects.toThrow(message);
      });

      it('a prompt that cannot be continued is refused by its number', async () => {
        const generate = (prompt: number[]) => get().generate([[5], prompt], sampling);
        await expect(generate([])).rejects.toThrow(/prompts\[1\]/);
        await expect(generate([999])).rejects.toThrow(/prompts\[1\]\[0\]/);
        await expect(generate(new Array(128).fill(5))).rejects.toThrow(/context of 128/);
      });
    },
  );
});

describe.skipIf(!existsSync(cudaOnCpu.library))("with CUDA's kernels on the processor", () => {
  withPolicy(openCudaOnCpu, (get) => {
    it('the log-probs of samples are those that the trainer computes, to 1e-5, past a long prompt too', async () => {
      const policy = tinyPolicy({ device: get().device }, { maxPositionEmbeddings: 1024 });
      await expectScoresNear(policy, ['12+7=', 'the quick brown fox '.repeat(14)]);
      policy.dispose();
    });
  });
});
