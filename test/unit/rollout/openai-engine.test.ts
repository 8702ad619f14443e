import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import type { Completion, RolloutEngine } from '../../../src/rollout/engine.js';
import { OpenAIEngine, type OpenAIEngineOptions } from '../../../src/rollout/openai-engine.js';
import type { Device } from '../../../src/tensor.js';
import { GRPOTrainer } from '../../../src/trainer/grpo-trainer.js';
import { type Answer, type FakeServer, fakeServer } from '../../fake-server.js';
import { type Serving, startServing } from '../serve/serving.js';

const texts = ['12+7=', 'a', '3*3'];
const sampling = { maxNewTokens: 10, n: 3, seed: 5, temperature: 0.8 };

let device: Device;
let policy: CausalLM;
let serving: Serving;
beforeAll(async () => {
  serving = await startServing({ apiKey: 'key', seed: 1 });
  device = await openDevice('cpu', { matmul: 'builtin', threads: 1 });
  const { config, tokenizer } = serving.policy;
  // Other weights than the server begins with.
  policy = CausalLM.create(config, tokenizer, { device, seed: 2 });
});
afterAll(async () => {
  await serving.close();
  policy.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

function engineAt(url: string, options: Partial<OpenAIEngineOptions> = {}): OpenAIEngine {
  const weights = { folder: serving.weightsDir };
  return new OpenAIEngine({ kind: 'grpo', url, model: 'tiny', policy, weights, backoffMs: 1, ...options });
}
const encode = (list: readonly string[]) => list.map((text) => policy.tokenizer.encode(text));

/** Expects the log-probs that a policy gives at the moment, to the bit. */
async function expectOwn(
  own: CausalLM,
  prompts: readonly Int32Array[],
  groups: readonly Completion[][],
  temperature: number,
) {
  const sequences = groups.flatMap((group, p) =>
    group.map(({ completionIds }) => ({ promptIds: prompts[p]!, completionIds })),
  );
  expect(groups.flat().map(({ logProbs }) => logProbs)).toEqual(await own.logProbs(sequences, { temperature }));
}

describe('OpenAIEngine on grpo serve', () => {
  it("samples with the policy's weights, which it gives to the server first", async () => {
    const engine = engineAt(serving.url, { apiKey: 'key' });
    const groups = await engine.generate(encode(texts), sampling);
    expect(groups.map((group) => group.length)).toEqual([3, 3, 3]);
    for (const { text, completionIds, stopReason, version } of groups.flat()) {
      expect(text).toBe(policy.tokenizer.decode(completionIds));
      expect(stopReason).toBe(completionIds.length === 10 ? 'length' : 'stop');
      expect(version).toBe(0);
    }
    await expectOwn(policy, encode(texts), groups, 0.8);
    expect(await engine.generate(encode(texts), sampling)).toEqual(groups);
    expect(await engine.generate(encode(texts), { ...sampling, seed: 6 })).not.toEqual(groups);
    await engine.close();
  });

  it('a GRPO run samples with the weights of the last update, every time', async () => {
    const trained = policy.clone({ frozen: false });
    const own = engineAt(serving.url, { apiKey: 'key', policy: trained });
    const versions: (number | undefined)[] = [];
    const checked: RolloutEngine = {
      async generate(prompts, options) {
        const groups = await own.generate(prompts, options);
        await expectOwn(trained, prompts, groups, options.temperature!);
        versions.push(groups[0]![0]!.version);
        return groups;
      },
      weightsChanged: () => own.weightsChanged(),
    };
    const digits = (batch: readonly { completion: string }[]) =>
      batch.map(({ completion }) => (completion.match(/[0-9]/g) ?? []).length);
    const trainer = await GRPOTrainer.create({
      policy: trained,
      engine: checked,
      dataset: texts.map((prompt) => ({ prompt })),
      rewards: [digits],
      maxSteps: 4,
      numGenerations: 4,
      perDeviceTrainBatchSize: 8,
      maxCompletionLength: 8,
      learningRate: 1e-2,
      rolloutCorrection: 'token-truncate',
    });
    for await (const { metrics } of trainer) expect(metrics.reward).toBeTypeOf('number');
    expect(versions).toEqual([0, 1, 2, 3]);
    expect(own.version).toBe(4);
    // Only the last weights are kept.
    expect((await readdir(serving.weightsDir)).filter((name) => name.startsWith('version-'))).toContain('version-4');
    expect(existsSync(join(serving.weightsDir, 'version-3'))).toBe(false);
    await trainer.close();
    await own.close();
    trained.dispose();
  });

  it('notices that the server got other weights behind its back', async () => {
    const [engine, other] = [engineAt(serving.url, { apiKey: 'key' }), engineAt(serving.url, { apiKey: 'key' })];
    await engine.generate(encode(texts), sampling);
    await other.generate(encode(texts), sampling);
    await other.weightsChanged();
    const asked = engine.generate(encode(texts), sampling);
    await expect(asked).rejects.toMatchObject({
      code: 'GRPO_STALE_WEIGHTS',
      message: expect.stringMatching(/version 1, expected version 0/),
    });
  });

  it('evaluates what the server has, without a folder for weights, but does not train', async () => {
    const engine = engineAt(serving.url, { apiKey: 'key', weights: null });
    const [group] = await engine.generate(encode(['a']), { ...sampling, n: 1 });
    expect(group).toHaveLength(1);
    await expect(engine.weightsChanged()).rejects.toMatchObject({ code: 'GRPO_UNSUPPORTED' });
  });

  it('fails with what the server says, and as a whole', async () => {
    const wrongKey = engineAt(serving.url, { apiKey: 'kez' });
    await expect(wrongKey.generate(encode(texts), sampling)).rejects.toMatchObject({ status: 401, code: 'GRPO_HTTP' });
    const engine = engineAt(serving.url, { apiKey: 'key' });
    await expect(engine.generate(encode(texts), { ...sampling, topP: 0 })).rejects.toThrow(/topP/);
    await expect(engine.generate([new Int32Array()], sampling)).rejects.toThrow(/prompts\[0\]/);
    const reason = new Error('enough');
    const controller = new AbortController();
    const long = engine.generate(encode(texts), { ...sampling, maxNewTokens: 200, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 30);
    await expect(long).rejects.toBe(reason);
    await serving.model.scheduler.idle();
  });
});

describe('OpenAIEngine on other servers', () => {
  const running: FakeServer[] = [];
  afterEach(async () => {
    for (const server of running.splice(0)) await server.close();
  });
  async function serve(answer: Answer): Promise<FakeServer> {
    const server = await fakeServer(answer);
    running.push(server);
    return server;
  }

  const vllmChoice = (index: number) => ({
    index,
    text: 'ab',
    finish_reason: 'stop',
    stop_reason: null,
    token_ids: [3, 4, index],
    logprobs: { tokens: ['a', 'b', ''], token_logprobs: [-1, -2, -0.5], top_logprobs: [null, null, null] },
  });

  it('asks vLLM in its own words', async () => {
    const server = await serve(({ path, body }) => {
      if (path !== '/v1/completions') return {};
      return { choices: Array.from({ length: body.n }, (_, i) => vllmChoice(body.n - 1 - i)) };
    });
    const engine = engineAt(server.url, {
      kind: 'vllm',
      weights: { folder: serving.weightsDir, serverFolder: '/data' },
    });
    const groups = await engine.generate(encode(['12', 'a']), { ...sampling, n: 2, topK: 7, stop: ['.'] });
    await engine.weightsChanged();
    expect(groups[1]![1]).toEqual({
      completionIds: Int32Array.of(3, 4, 1),
      logProbs: Float32Array.of(-1, -2, -0.5),
      text: 'ab',
      stopReason: 'stop',
      version: 0,
    });
    const [reload, reset, ask, , reloadAgain] = server.requests;
    const rpc = (version: number) => ({
      method: 'reload_weights',
      kwargs: { weights_path: `/data/version-${version}` },
    });
    expect(reload).toMatchObject({ path: '/collective_rpc', body: rpc(0) });
    expect(reset).toMatchObject({ path: '/reset_prefix_cache' });
    expect(reloadAgain).toMatchObject({ path: '/collective_rpc', body: rpc(1) });
    expect(ask!.body).toEqual({
      model: 'tiny',
      prompt: [...policy.tokenizer.encode('12')],
      n: 2,
      max_tokens: 10,
      temperature: 0.8,
      top_p: 1,
      top_k: 7,
      seed: expect.any(Number),
      stop: ['.'],
      ignore_eos: true,
      stop_token_ids: [...policy.stopTokenIds],
      logprobs: 0,
      return_token_ids: true,
    });
  });

  it('asks SGLang in its own words, and checks the version that it tells', async () => {
    let version = '0';
    const server = await serve(({ path, body }) => {
      if (path !== '/generate') return { success: true, message: 'ok' };
      return body.input_ids.map(() => ({
        text: 'ab',
        meta_info: {
          finish_reason: { type: 'length', length: 10 },
          output_token_logprobs: [
            [-1, 3, null],
            [-2, 4, null],
          ],
          weight_version: version,
        },
      }));
    });
    const engine = engineAt(server.url, { kind: 'sglang' });
    const [group] = await engine.generate(encode(['a']), { ...sampling, n: 2 });
    expect(group).toHaveLength(2);
    expect(group![0]).toMatchObject({ completionIds: Int32Array.of(3, 4), stopReason: 'length', version: 0 });
    const folder = `${serving.weightsDir}/version-0`;
    expect(server.requests[0]).toMatchObject({
      path: '/update_weights_from_disk',
      body: { model_path: folder, weight_version: '0' },
    });
    const { input_ids, sampling_params, return_logprob } = server.requests[1]!.body;
    expect(input_ids).toEqual([[...policy.tokenizer.encode('a')], [...policy.tokenizer.encode('a')]]);
    expect(return_logprob).toBe(true);
    const seeds = sampling_params.map((params: { sampling_seed: number }) => params.sampling_seed);
    expect(new Set(seeds).size).toBe(2);
    expect(sampling_params[0]).toMatchObject({
      max_new_tokens: 10,
      top_k: -1,
      stop_token_ids: [...policy.stopTokenIds],
    });
    version = '8';
    await expect(engine.generate(encode(['a']), sampling)).rejects.toMatchObject({ code: 'GRPO_STALE_WEIGHTS' });
    const noStop = engine.generate(encode(['a']), { ...sampling, stopTokenIds: [] });
    await expect(noStop).rejects.toMatchObject({ code: 'GRPO_UNSUPPORTED' });
  });

  it('says so when a server keeps its weights', async () => {
    const server = await serve(() => ({ success: false, message: 'no space' }));
    const engine = engineAt(server.url, { kind: 'sglang' });
    await expect(engine.generate(encode(['a']), sampling)).rejects.toThrow(/kept its old weights: no space/);
  });

  it('does not sample with old weights after a server failed to take the new ones', async () => {
    let full = false;
    const server = await serve(({ path, body }, response) => {
      if (path === '/v1/completions') return { choices: [vllmChoice(0)] };
      if (full && path === '/collective_rpc') response.statusCode = 400;
      return body;
    });
    const engine = engineAt(server.url, { kind: 'vllm' });
    const ask = () => engine.generate(encode(['a']), { ...sampling, n: 1 });
    await ask();
    full = true;
    await expect(engine.weightsChanged()).rejects.toMatchObject({ code: 'GRPO_HTTP', status: 400 });
    await expect(ask()).rejects.toMatchObject({ status: 400 });
    expect(server.requests.filter(({ path }) => path === '/v1/completions')).toHaveLength(1);
    full = false;
    expect((await ask())[0]![0]!.version).toBe(1);
  });

  it.each<[string, object, RegExp]>([
    ['no token ids', { ...vllmChoice(0), token_ids: undefined }, /token_ids/],
    ['no log-probs', { ...vllmChoice(0), logprobs: null }, /logprobs/],
    ['too few log-probs', { ...vllmChoice(0), token_ids: [1] }, /3 log-probs for 1 tokens/],
    ['an aborted completion', { ...vllmChoice(0), finish_reason: 'abort' }, /finish_reason/],
  ])('refuses an answer with %s', async (_, choice, message) => {
    const server = await serve(() => ({ choices: [choice] }));
    const engine = engineAt(server.url, { kind: 'vllm', weights: null });
    const asked = engine.generate(encode(['a']), { ...sampling, n: 1 });
    await expect(asked).rejects.toThrow(message);
  });

  it('refuses fewer completions than it asked for, and asks again after a passing failure', async () => {
    let failures = 2;
    const server = await serve((_, response) => {
      if (failures-- > 0) response.statusCode = 503;
      return { choices: [vllmChoice(0)] };
    });
    const engine = engineAt(server.url, { kind: 'vllm', weights: null });
    expect(await engine.generate(encode(['a']), { ...sampling, n: 1 })).toHaveLength(1);
    await expect(engine.generate(encode(['a']), sampling)).rejects.toThrow(/1 completions, expected 3/);
  });

  it.each<[Partial<OpenAIEngineOptions>, RegExp]>([
    [{ kind: 'tgi' as 'vllm' }, /kind/],
    [{ model: '' }, /model/],
    [{ weights: {} as { folder: string } }, /weights/],
    [{ weights: '/shared' as never }, /weights/],
    [{ concurrency: 0 }, /concurrency/],
    [{ kind: 'vllm', weights: { give: async () => {}, close: async () => {} } }, /A weight channel .*kind vllm/],
  ])('refuses %j', (options, message) => {
    expect(() => engineAt('http://127.0.0.1:1', options)).toThrow(message);
  });
});
