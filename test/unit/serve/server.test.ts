import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import OpenAI from 'openai';
import { afterEach, describe, expect, it } from 'vitest';
import { CausalLM } from '../../../src/models/causal-lm.js';
import type { ServerOptions } from '../../../src/serve/server.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { tinyPolicy } from '../../tiny-model.js';
import { type Serving, startServing } from './serving.js';

const running: Serving[] = [];
afterEach(async () => {
  for (const serving of running.splice(0)) await serving.close();
});
async function serve(options: Parameters<typeof startServing>[0] = {}): Promise<Serving> {
  const serving = await startServing(options);
  running.push(serving);
  return serving;
}

interface Answer {
  status: number;
  body: { error?: { message: string; type: string; code: string | null }; weights_version?: number | null };
  headers: Headers;
}

async function post(serving: Serving, path: string, body: unknown, headers: object = {}): Promise<Answer> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const init = { method: 'POST', headers: { 'content-type': 'application/json', ...headers }, body: text };
  const response = await fetch(serving.url + path, init);
  return { status: response.status, body: (await response.json()) as Answer['body'], headers: response.headers };
}

const until = async (condition: () => boolean) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
};
const long = { model: 'tiny', prompt: 'a', max_tokens: 250, ignore_eos: true };

describe('requests that cannot be answered', () => {
  it.each<[string, ServerOptions, string, unknown, object, number]>([
    ['a body that is not JSON', {}, '/v1/completions', '{"model"', {}, 400],
    ['a body that is no object', {}, '/v1/completions', 'null', {}, 400],
    ['a body that is too long', { maxBodyBytes: 100 }, '/v1/completions', { prompt: 'a'.repeat(100) }, {}, 413],
    ['a body of another type', {}, '/v1/completions', {}, { 'content-type': 'text/plain' }, 415],
    ['an unknown path', {}, '/v1/embeddings', {}, {}, 404],
    ['a wrong method', {}, '/v1/models', {}, {}, 405],
    ['no key', { apiKey: 'secret' }, '/v1/completions', {}, {}, 401],
  ])('%s', async (_, options, path, body, headers, status) => {
    const answer = await post(await serve(options), path, body, headers);
    expect(answer.status).toBe(status);
    expect(answer.body.error).toMatchObject({ type: 'invalid_request_error' });
    expect(JSON.stringify(answer.body)).not.toContain('secret');
  });

  it('a body that turns out too long while it comes', async () => {
    const { url } = await serve({ maxBodyBytes: 1000 });
    const body = new ReadableStream({
      pull: (controller) => controller.enqueue(new TextEncoder().encode('a'.repeat(400))),
    });
    const init = { method: 'POST', headers: { 'content-type': 'application/json' }, body, duplex: 'half' as const };
    const asked = fetch(`${url}/v1/completions`, init).then(({ status }) => status);
    // An endless body may also meet the closed connection first.
    expect(await asked.catch(() => 413)).toBe(413);
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });

  it('a Host header that names another machine', async () => {
    const { url } = await serve();
    const ask = (host: string) =>
      new Promise<number>((resolve) => {
        httpRequest(`${url}/health`, { headers: { host } }, (response) => {
          response.resume();
          resolve(response.statusCode!);
        }).end();
      });
    expect(await ask('evil.example')).toBe(403);
    expect(await ask('localhost:8000')).toBe(200);
  });
});

describe('load', () => {
  it('answers 429 with Retry-After when the queue is full, which the client waits for', async () => {
    // The first runs longer than all the requests that meet it take.
    const serving = await serve({ scheduler: { maxBatch: 1, maxQueue: 1 }, context: 4096 });
    const first = post(serving, '/v1/completions', { ...long, max_tokens: 3000 });
    await until(() => serving.model.scheduler.load.running === 1);
    const second = post(serving, '/v1/completions', { ...long, max_tokens: 2 });
    await until(() => serving.model.scheduler.load.waiting === 1);
    const refused = await post(serving, '/v1/completions', { ...long, max_tokens: 2 });
    expect(refused.status).toBe(429);
    expect(refused.headers.get('retry-after')).toBe('1');
    const several = await post(serving, '/v1/completions', { ...long, prompt: ['a', 'b'], max_tokens: 2 });
    expect(several.status).toBe(429);
    expect(serving.model.scheduler.load).toEqual({ running: 1, waiting: 1 });
    const client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'none', maxRetries: 10 });
    const patient = await client.completions.create({ model: 'tiny', prompt: 'a', max_tokens: 2 });
    expect(patient.choices).toHaveLength(1);
    expect((await first).status).toBe(200);
    expect((await second).status).toBe(200);
  });

  it('a client that goes away gives up its place', async () => {
    const serving = await serve();
    const { scheduler } = serving.model;
    for (const stream of [false, true]) {
      const controller = new AbortController();
      const init = { method: 'POST', headers: { 'content-type': 'application/json' }, signal: controller.signal };
      const asked = fetch(`${serving.url}/v1/completions`, {
        ...init,
        body: JSON.stringify({ ...long, n: 20, stream }),
      });
      const ended = asked.then((response) => response.text()).catch((error: Error) => error.name);
      await until(() => scheduler.load.running === 20);
      controller.abort();
      expect(await ended).toBe('AbortError');
      await until(() => scheduler.load.running === 0);
      await scheduler.idle();
    }
  });

  it('many clients at once get what each would get alone', async () => {
    const serving = await serve();
    const client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'none' });
    const ask = (seed: number) =>
      client.completions.create({ model: 'tiny', prompt: `${seed}+`, max_tokens: 10 + seed, seed, temperature: 0.9 });
    const together = await Promise.all(Array.from({ length: 12 }, (_, seed) => ask(seed)));
    for (const [seed, { choices }] of together.entries()) {
      expect(choices[0]!.text).toBe((await ask(seed)).choices[0]!.text);
    }
  });

  it('a shutdown lets requests end within the time of grace, and aborts the rest', async () => {
    const { ApiServer } = await import('../../../src/serve/server.js');
    const serving = await serve();
    const stop = async (graceMs: number) => {
      const api = new ApiServer(serving.model, { port: 0 });
      const url = await api.listen();
      const asked = post({ ...serving, url }, '/v1/completions', { ...long, n: 4 });
      await until(() => serving.model.scheduler.load.running === 4);
      const closed = api.close(graceMs);
      await expect(fetch(`${url}/health`)).rejects.toThrow();
      const { status } = await asked;
      await closed;
      return status;
    };
    expect(await stop(20_000)).toBe(200);
    expect(await stop(0)).toBe(503);
    expect(serving.model.scheduler.load.waiting).toBe(0);
  });
});

describe('new weights', () => {
  /** Saves a policy of the same shape with other weights into the folder of weights. */
  async function save(serving: Serving, name: string, seed: number, shape = {}): Promise<CausalLM> {
    const { device, tokenizer, config } = serving.policy;
    const other = CausalLM.create({ ...config, ...shape }, tokenizer, { device, seed });
    await other.save(join(serving.weightsDir, name));
    return other;
  }
  const ask = async (serving: Serving) => {
    const options = { model: 'tiny', prompt: '12+7=', max_tokens: 8, seed: 1 };
    const client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'none' });
    const { choices } = await client.completions.create(options);
    return choices[0] as unknown as { text: string; weights_version: number | null };
  };

  it('are taken between two completions, and every choice says which it was sampled with', async () => {
    const serving = await serve();
    const before = await ask(serving);
    expect(before.weights_version).toBeNull();
    const other = await save(serving, 'step-3', 7);
    const begun = post(serving, '/v1/completions', { ...long, seed: 1 });
    await until(() => serving.model.scheduler.load.running === 1);
    const reload = post(serving, '/v1/weights', { path: 'step-3', version: 3 });
    const { body } = await begun;
    expect((body as unknown as { choices: object[] }).choices[0]).toMatchObject({ weights_version: null });
    expect((await reload).body).toEqual({ weights_version: 3 });
    const after = await ask(serving);
    const [[expected]] = (await other.generate(['12+7='], { maxNewTokens: 8, seed: 1 })) as unknown as [
      [{ text: string }],
    ];
    other.dispose();
    expect(after).toMatchObject({ text: expected.text, weights_version: 3 });
    expect(after.text).not.toBe(before.text);
    expect(await (await fetch(`${serving.url}/v1/weights`)).json()).toEqual({ weights_version: 3 });
  });

  it('are refused from elsewhere, from a damaged folder and of another shape; the old ones stay', async () => {
    const serving = await serve();
    const before = await ask(serving);
    const outside = await serve();
    (await save(outside, 'model', 7)).dispose();
    (await save(serving, 'wide', 7, { intermediateSize: 32 })).dispose();
    await mkdir(join(serving.weightsDir, 'broken'));
    await writeFile(join(serving.weightsDir, 'broken', 'config.json'), '{');
    const foreign = join(outside.weightsDir, 'model');
    await symlink(foreign, join(serving.weightsDir, 'link'));
    for (const path of ['../', foreign, `../${foreign.split('/').at(-2)}/model`, 'link', 'absent', 'broken', 'wide']) {
      const { status, body } = await post(serving, '/v1/weights', { path, version: 1 });
      expect({ path, status }).toEqual({ path, status: 400 });
      expect(body.error!.message).not.toContain(foreign);
    }
    expect((await post(serving, '/v1/weights', { path: 'wide' })).status).toBe(400);
    expect(await ask(serving)).toEqual(before);
  });

  it('are not taken without a folder for them', async () => {
    const { ServedModel } = await import('../../../src/serve/served-model.js');
    const { ApiServer } = await import('../../../src/serve/server.js');
    const serving = await serve();
    const policy = tinyPolicy({ device: serving.policy.device });
    const model = new ServedModel(policy, { name: 'tiny', weightsDir: null, scheduler: { cacheBytes: 2 ** 20 } });
    const api = new ApiServer(model, { port: 0 });
    const url = await api.listen();
    expect((await post({ ...serving, url }, '/v1/weights', { path: '.', version: 1 })).status).toBe(403);
    const chat = { model: 'tiny', messages: [{ role: 'user', content: 'a' }] };
    const { status, body } = await post({ ...serving, url }, '/v1/chat/completions', chat);
    expect([status, body.error!.message]).toEqual([400, expect.stringMatching(/chat template/)]);
    expect(policy.tokenizer).toBeInstanceOf(Tokenizer);
    await api.close();
    await model.close();
    policy.dispose();
  });
});
