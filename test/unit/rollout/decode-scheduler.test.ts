import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { InvalidArgumentError } from '../../../src/errors.js';
import type { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import {
  DecodeScheduler,
  type DecodeSchedulerOptions,
  QueueFullError,
  type TokenEvent,
} from '../../../src/rollout/decode-scheduler.js';
import { TokenRanges } from '../../../src/rollout/token-ranges.js';
import type { Device } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';

const prompts = ['12+7=', 'a', 'the quick brown fox jumps over the lazy dog. ', '3*3'];
/** Bytes of the keys and values of a token of the tiny model. */
const tokenBytes = 2 * 2 * 16 * 4;

let device: Device;
let policy: CausalLM;
const schedulers: DecodeScheduler[] = [];
beforeAll(async () => {
  device = await openDevice('cpu', { matmul: 'builtin', threads: 1 });
  policy = tinyPolicy({ device });
});
afterAll(async () => {
  for (const scheduler of schedulers) await scheduler.close();
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

function scheduler(options: DecodeSchedulerOptions = {}): DecodeScheduler {
  const made = new DecodeScheduler(policy, { cacheBytes: 2000 * tokenBytes, ...options });
  schedulers.push(made);
  return made;
}
const encode = (text: string) => policy.tokenizer.encode(text);
const sampling = { maxNewTokens: 12, seed: 5, n: 3, stopTokenIds: [] };

describe('DecodeScheduler', () => {
  it.each<[string, DecodeSchedulerOptions]>([
    ['room for all', {}],
    ['room for one or two completions', { cacheBytes: 62 * tokenBytes }],
    ['two completions at a time', { maxBatch: 2 }],
    ['logits of one row at a time', { workspaceBytes: 1 }],
  ])('gives the bits of the native engine with %s', async (_, options) => {
    const expected = await policy.generate(prompts, { ...sampling, temperature: 0.8 });
    const decoding = scheduler(options);
    const got = await Promise.all(
      prompts.map((prompt, promptIndex) =>
        decoding.submit(encode(prompt), { ...sampling, temperature: 0.8, promptIndex }),
      ),
    );
    expect(got).toEqual(expected);
  });

  it('gives the bits of the native engine with a cache in bf16', async () => {
    using rounded = tinyPolicy({ device, dtype: 'bf16', activations: 'bf16' });
    const decoding = new DecodeScheduler(rounded, { cacheBytes: 62 * (tokenBytes / 2) });
    const options = { ...sampling, temperature: 0.8 };
    const got = await Promise.all(
      prompts.map((prompt, promptIndex) => decoding.submit(encode(prompt), { ...options, promptIndex })),
    );
    expect(got).toEqual(await rounded.generate(prompts, options));
    expect(got).not.toEqual(await policy.generate(prompts, options));
    await decoding.close();
  });

  it('takes in what arrives while it decodes, each sampled in its own way', async () => {
    const decoding = scheduler();
    const options = [
      { ...sampling, maxNewTokens: 30 },
      { ...sampling, seed: 9, temperature: 0.5, topK: 4 },
      { ...sampling, seed: 2, temperature: 0, n: 1 },
      { ...sampling, minP: 0.2 },
    ];
    const running: Promise<unknown>[] = [];
    let largest = 0;
    const onToken = () => {
      largest = Math.max(largest, decoding.load.running);
      if (running.length < prompts.length) submit();
    };
    const submit = () => {
      const i = running.length;
      running.push(decoding.submit(encode(prompts[i]!), { ...options[i]!, onToken }));
    };
    submit();
    await decoding.idle();
    expect(running).toHaveLength(4);
    expect(largest).toBe(10);
    for (const [i, completions] of (await Promise.all(running)).entries()) {
      expect([completions]).toEqual(await policy.generate([prompts[i]!], options[i]!));
    }
  });

  it('records its step once the same rows come again, and frees it when they change or end', async () => {
    const decoding = scheduler();
    const record = vi.spyOn(device, 'record');
    const plain = device.memory().liveTensors;
    const one = { ...sampling, n: 1, maxNewTokens: 20 };
    const bias = new Map([[policy.tokenizer.encode('a')[0]!, 1]]);
    await decoding.submit(encode('a'), { ...one, logitBias: bias });
    expect(record).toHaveBeenCalledTimes(1);
    // Two rows together until the first ends, then the other alone.
    await Promise.all([
      decoding.submit(encode('a'), { ...one, maxNewTokens: 8 }),
      decoding.submit(encode('3*3'), { ...one, temperature: 0.5 }),
    ]);
    expect(record).toHaveBeenCalledTimes(3);
    // Logits go out at each step.
    await decoding.submit(encode('a'), { ...one, alternatives: 2 });
    // A second step only, of the same rows.
    await decoding.submit(encode('a'), { ...one, maxNewTokens: 2 });
    expect(record).toHaveBeenCalledTimes(3);
    await decoding.idle();
    expect(device.memory().liveTensors).toBe(plain);
    record.mockRestore();
  });

  it('tells each token as it comes, with the likeliest ones at its place', async () => {
    const events: TokenEvent[] = [];
    const [completion] = await scheduler().submit(encode('12+7='), {
      ...sampling,
      n: 1,
      temperature: 0.7,
      alternatives: 4,
      onToken: (event) => events.push({ ...event, ids: [...event.ids] }),
    });
    expect(events.map(({ id }) => id)).toEqual([...completion!.completionIds]);
    expect(events.at(-1)).toMatchObject({ end: { reason: 'length', text: completion!.text } });
    for (const [i, { alternatives, ids, logProb }] of events.entries()) {
      expect(ids).toEqual([...completion!.completionIds.slice(0, i + 1)]);
      const candidates = Array.from({ length: policy.config.vocabSize }, (_, id) => ({
        promptIds: encode('12+7='),
        completionIds: [...ids.slice(0, -1), id],
      }));
      if (i % 5 !== 0) continue;
      const all = (await policy.logProbs(candidates, { temperature: 0.7 })).map((values) => values.at(-1)!);
      const best = all.map((value, id) => ({ id, value })).sort((a, b) => b.value - a.value);
      expect(alternatives.map(({ id }) => id)).toEqual(best.slice(0, 4).map(({ id }) => id));
      alternatives.forEach((token, k) => {
        expect(token.logProb).toBeCloseTo(best[k]!.value, 5);
      });
      expect(all[ids.at(-1)!]).toBeCloseTo(logProb, 5);
    }
  });

  it('adds a bias to the logits: of the request that wants it, and of no other', async () => {
    const decoding = scheduler();
    const id = policy.tokenizer.tokenId('7')!;
    const plain = { ...sampling, n: 2 };
    const [biased, other] = await Promise.all([
      decoding.submit(encode('a'), { ...plain, logitBias: new Map([[id, 100]]) }),
      decoding.submit(encode('a'), plain),
    ]);
    for (const { completionIds, logProbs } of biased) {
      expect([...completionIds]).toEqual(new Array(12).fill(id));
      expect(Math.max(...logProbs.map(Math.abs))).toBeLessThan(1e-6);
    }
    expect([other]).toEqual(await policy.generate(['a'], plain));
    const [without] = await decoding.submit(encode('a'), { ...plain, n: 1, logitBias: new Map([[id, -100]]) });
    expect([...without!.completionIds]).not.toContain(id);
  });

  it('an abort gives the place to others', async () => {
    const decoding = scheduler({ maxBatch: 1 });
    const reason = new Error('enough');
    const controller = new AbortController();
    let tokens = 0;
    const onToken = () => {
      if (++tokens === 3) controller.abort(reason);
    };
    const first = decoding.submit(encode('a'), { ...sampling, maxNewTokens: 100, onToken, signal: controller.signal });
    const second = decoding.submit(encode('a'), { ...sampling, n: 1 });
    await expect(first).rejects.toBe(reason);
    expect(await second).toHaveLength(1);
    expect(tokens).toBe(3);
    expect(decoding.load).toEqual({ running: 0, waiting: 0 });
    const early = decoding.submit(encode('a'), { ...sampling, signal: AbortSignal.abort(reason) });
    await expect(early).rejects.toBe(reason);
  });

  it('refuses what the queue does not take', async () => {
    const decoding = scheduler({ maxBatch: 1, maxQueue: 4 });
    const running = [decoding.submit(encode('a'), sampling)];
    expect(() => decoding.submit(encode('a'), sampling)).toThrow(QueueFullError);
    running.push(decoding.submit(encode('a'), { ...sampling, n: 1 }));
    expect((await Promise.all(running)).map((group) => group.length)).toEqual([3, 1]);
  });

  it('lets work happen between completions: none is begun before and ended after', async () => {
    const decoding = scheduler();
    const first = decoding.submit(encode('a'), sampling);
    await new Promise<void>((resolve) => setTimeout(resolve, 1));
    let worked = false;
    const work = decoding.whilePaused(async () => {
      expect(decoding.load.running).toBe(0);
      await new Promise((resolve) => setTimeout(resolve, 20));
      expect(decoding.load).toEqual({ running: 0, waiting: 3 });
      worked = true;
    });
    const second = decoding.submit(encode('a'), { ...sampling, onToken: () => expect(worked).toBe(true) });
    await first;
    expect(worked).toBe(false);
    await work;
    expect(await second).toEqual(await first);
  });

  it('says at once what is wrong with a request', () => {
    const decoding = scheduler({ cacheBytes: 20 * tokenBytes });
    const submit = (prompt: Int32Array, extra: object) => () => decoding.submit(prompt, { ...sampling, ...extra });
    expect(submit(encode('a'), { topP: 0 })).toThrow(/topP/);
    expect(submit(new Int32Array(), {})).toThrow(/prompt/);
    expect(submit(encode('a'), { logitBias: new Map([[999, 1]]) })).toThrow(/logitBias/);
    expect(submit(encode('a'), { maxNewTokens: 21 })).toThrow(/at most 20 tokens.*21 tokens/);
    expect(submit(encode('a'), { maxNewTokens: 21 })).toThrow(InvalidArgumentError);
    expect(decoding.load).toEqual({ running: 0, waiting: 0 });
  });

  it('rejects what is left when it is closed', async () => {
    const decoding = scheduler({ maxBatch: 1 });
    const running = [decoding.submit(encode('a'), sampling), decoding.submit(encode('a'), sampling)];
    const settled = Promise.allSettled(running);
    await decoding.close();
    expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(() => decoding.submit(encode('a'), sampling)).toThrow(/disposed/);
  });
});

describe('TokenRanges', () => {
  it('joins what comes back, so that all is free at the end', () => {
    const ranges = new TokenRanges(10);
    const taken = [3, 4, 3].map((length) => ({ start: ranges.take(length)!, length }));
    expect(taken.map(({ start }) => start)).toEqual([0, 3, 7]);
    expect(ranges.take(1)).toBeNull();
    expect(ranges.take(0)).toBe(0);
    for (const { start, length } of [taken[0]!, taken[2]!]) ranges.release(start, length);
    expect(ranges.take(4)).toBeNull();
    ranges.release(3, 4);
    expect(ranges.take(10)).toBe(0);
  });
});
