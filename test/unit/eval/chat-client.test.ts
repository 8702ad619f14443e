import { afterEach, describe, expect, it } from 'vitest';
import { ChatClient, type ChatClientOptions } from '../../../src/eval/chat-client.js';
import { type FakeReply, FakeServer } from './fake-server.js';

let server: FakeServer | undefined;
afterEach(async () => {
  await server?.close();
  server = undefined;
});

const request = { messages: [{ role: 'user', content: 'Hello?' }], maxTokens: 5 };

async function client(replies: (index: number) => FakeReply, options: Partial<ChatClientOptions> = {}) {
  server = await FakeServer.start((_, index) => replies(index));
  return new ChatClient({ url: server.url, model: 'm', backoffMs: 1, ...options });
}

describe('ChatClient', () => {
  it('sends one chat completion and reads the reply', async () => {
    const reply = { content: 'Hi', reasoning: 'They greet.', finishReason: 'length' };
    const chat = await client(() => reply, { apiKey: 'secret' });
    expect(await chat.complete({ ...request, temperature: 0, topP: 0.5, seed: 3 })).toEqual({
      content: 'Hi',
      reasoning: 'They greet.',
      stopReason: 'length',
      tokens: 7,
    });
    const { body, authorization, url } = server!.requests[0]!;
    expect(url).toBe('/v1/chat/completions');
    expect(authorization).toBe('Bearer secret');
    expect(body).toEqual({
      model: 'm',
      messages: request.messages,
      max_tokens: 5,
      temperature: 0,
      top_p: 0.5,
      seed: 3,
    });
  });

  it('takes null content for a reply that is empty', async () => {
    const chat = await client(() => ({ content: null, finishReason: 'length' }));
    expect(await chat.complete(request)).toMatchObject({ content: '', stopReason: 'length' });
  });

  it.each<[string, FakeReply]>([
    ['HTTP 429', { status: 429, body: { error: { message: 'slow down' } } }],
    ['HTTP 500', { status: 500, body: 'oops' }],
    ['HTTP 503', { status: 503, body: '' }],
    ['a closed connection', { hangUp: true }],
    ['silence', { delayMs: 5000 }],
  ])('tries again after %s', async (_, failure) => {
    const chat = await client((i) => (i < 2 ? failure : { content: 'at last' }), { timeoutMs: 150 });
    expect((await chat.complete(request)).content).toBe('at last');
    expect(server!.requests).toHaveLength(3);
  });

  it('waits longer each time, and as long as the server asks', async () => {
    const chat = await client((i) => (i < 3 ? { status: 500 } : { content: 'ok' }), { backoffMs: 40 });
    let begun = performance.now();
    await chat.complete(request);
    // Waits of at least three quarters of 40, 80 and 160 ms.
    expect(performance.now() - begun).toBeGreaterThan(205);
    await server!.close();
    const asked = { status: 429, headers: { 'retry-after': '0.3' } };
    const patient = await client((i) => (i === 0 ? asked : { content: 'ok' }));
    begun = performance.now();
    await patient.complete(request);
    expect(performance.now() - begun).toBeGreaterThan(295);
  });

  it('gives up after its retries, with the last reason', async () => {
    const chat = await client(() => ({ status: 500, body: { error: { message: 'out of memory' } } }), { retries: 2 });
    await expect(chat.complete(request)).rejects.toMatchObject({
      code: 'GRPO_HTTP',
      status: 500,
      message: expect.stringMatching(/\/v1\/chat\/completions: 500: .*out of memory/),
    });
    expect(server!.requests).toHaveLength(3);
  });

  it.each<[string, FakeReply, RegExp]>([
    ['HTTP 400', { status: 400, body: 'too long' }, /400: too long/],
    ['HTTP 401', { status: 401, body: 'no key' }, /401: no key/],
    ['text that is not JSON', { body: '<html>busy</html>' }, /not JSON: <html>busy/],
    ['JSON of another kind', { body: [] }, /The reply of m cannot be read/],
    ['no choices', { body: { choices: [] } }, /cannot be read: choices: /],
    ['no content', { body: { choices: [{ message: {} }] } }, /cannot be read: choices\.0\.message\.content: /],
  ])('reports %s at once', async (_, reply, expected) => {
    const chat = await client(() => reply);
    await expect(chat.complete(request)).rejects.toMatchObject({
      code: 'GRPO_HTTP',
      message: expect.stringMatching(expected),
    });
    expect(server!.requests).toHaveLength(1);
  });

  it('says that nobody listens', async () => {
    const chat = await client(() => ({}), { retries: 1 });
    await server!.close();
    server = undefined;
    await expect(chat.complete(request)).rejects.toThrow(/ECONNREFUSED/);
  });

  it('waits longer than fetch would, if asked', async () => {
    const chat = await client(() => ({ content: 'ok' }), { timeoutMs: 3_600_000 });
    expect((await chat.complete(request)).content).toBe('ok');
  });

  it('has no more requests under way than allowed', async () => {
    const chat = await client((i) => ({ content: String(i), delayMs: 20 }), { concurrency: 3 });
    await Promise.all(Array.from({ length: 10 }, () => chat.complete(request)));
    expect(server!.requests).toHaveLength(10);
    expect(server!.mostAtOnce).toBe(3);
  });

  it('lets many wait on one signal without a warning', async () => {
    const warnings: Error[] = [];
    const listen = (warning: Error) => warnings.push(warning);
    process.on('warning', listen);
    const chat = await client((i) => (i < 20 ? { status: 500 } : { content: 'ok' }), {
      concurrency: 20,
      backoffMs: 50,
    });
    const { signal } = new AbortController();
    await Promise.all(Array.from({ length: 20 }, () => chat.complete(request, signal)));
    process.off('warning', listen);
    expect(warnings).toEqual([]);
  });

  it('stops at once when aborted: under way, between tries and in the queue', async () => {
    const chat = await client(() => ({ delayMs: 5000 }), { concurrency: 1 });
    const controller = new AbortController();
    const calls = [1, 2].map(() => chat.complete(request, controller.signal).catch((e) => e));
    setTimeout(() => controller.abort(new Error('enough')), 50);
    const begun = performance.now();
    expect((await Promise.all(calls)).map((e) => e.message)).toEqual(['enough', 'enough']);
    expect(server!.requests).toHaveLength(1);
    await server!.close();

    const waiting = await client(() => ({ status: 500 }), { backoffMs: 10_000 });
    const again = new AbortController();
    setTimeout(() => again.abort(new Error('enough')), 50);
    await expect(waiting.complete(request, again.signal)).rejects.toThrow('enough');
    expect(performance.now() - begun).toBeLessThan(3000);
  });

  it.each(['localhost:8000', 'ftp://host/v1', ''])('refuses the address %j', (url) => {
    expect(() => new ChatClient({ url, model: 'm' })).toThrow(/an http address/);
  });
});
