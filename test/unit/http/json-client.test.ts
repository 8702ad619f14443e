import { afterEach, describe, expect, it } from 'vitest';
import { type HttpError, JsonClient, type JsonClientOptions } from '../../../src/http/json-client.js';
import { Limiter } from '../../../src/http/limiter.js';
import { type Answer, type FakeServer, fakeServer } from '../../fake-server.js';

const running: FakeServer[] = [];
afterEach(async () => {
  for (const server of running.splice(0)) await server.close();
});
async function serve(answer: Answer, options: JsonClientOptions = {}) {
  const server = await fakeServer(answer);
  running.push(server);
  return { server, client: new JsonClient(`${server.url}/v1/`, { backoffMs: 1, ...options }) };
}
const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => expect.unreachable(),
    (e: unknown) => e as HttpError,
  );

describe('JsonClient', () => {
  it('asks again where that can help, and tells what came at last', async () => {
    const statuses = [503, 429, 500];
    const { server, client } = await serve((_, response) => {
      const status = statuses.shift();
      if (status) response.statusCode = status;
      return { status };
    });
    expect(await client.post('/v1/x', { a: 1 })).toEqual({});
    expect(server.requests.map(({ path, body }) => [path, body])).toEqual(new Array(4).fill(['/v1/x', { a: 1 }]));
    statuses.push(503, 503, 503, 503, 503);
    expect(await failure(client.get('/x'))).toMatchObject({ reason: 'status', status: 503, code: 'GRPO_HTTP' });
    expect(server.requests).toHaveLength(9);
  });

  it('does not ask again where it cannot, and never tells the key', async () => {
    const { server, client } = await serve(
      (_, response) => {
        response.statusCode = 400;
        return { error: 'no such option' };
      },
      { apiKey: 'secret' },
    );
    const error = await failure(client.post('/x', {}));
    expect(error.message).toMatch(/\/x: 400: .*no such option/);
    expect(JSON.stringify(error) + error.stack).not.toContain('secret');
    expect(server.requests).toHaveLength(1);
    expect(server.requests[0]!.headers.authorization).toBe('Bearer secret');
  });

  it('waits as long as Retry-After says', async () => {
    let first = true;
    const { client } = await serve((_, response) => {
      if (!first) return {};
      first = false;
      response.statusCode = 429;
      response.setHeader('retry-after', '0.2');
      return {};
    });
    const start = performance.now();
    await client.get('/x');
    expect(performance.now() - start).toBeGreaterThan(190);
  });

  it('tells a timeout, a dead connection and an answer that is not JSON apart', async () => {
    const slow = await serve(() => undefined, { timeoutMs: 400, retries: 1 });
    expect(await failure(slow.client.get('/x'))).toMatchObject({ reason: 'timeout', status: null });
    expect(slow.server.requests).toHaveLength(2);
    const dead = await serve(
      (_, response) => {
        response.destroy();
        return undefined;
      },
      { retries: 1 },
    );
    expect(await failure(dead.client.get('/x'))).toMatchObject({ reason: 'connection' });
    const garbage = await serve((_, response) => {
      response.end('<html>');
      return undefined;
    });
    expect(await failure(garbage.client.get('/x'))).toMatchObject({ reason: 'format', status: 200 });
    expect(garbage.server.requests).toHaveLength(1);
    const nobody = new JsonClient('http://127.0.0.1:9', { retries: 0 });
    expect((await failure(nobody.get('/x'))).message).toMatch(/127\.0\.0\.1:9\/x/);
  });

  it('ends at once when it is told to', async () => {
    const { client } = await serve(
      (_, response) => {
        response.statusCode = 503;
        return {};
      },
      { backoffMs: 60_000 },
    );
    const reason = new Error('enough');
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 20);
    await expect(client.get('/x', controller.signal)).rejects.toBe(reason);
    await expect(client.get('/x', AbortSignal.abort(reason))).rejects.toBe(reason);
  });

  it.each([
    ['ftp://x', {}, /url/],
    ['http://user:password@host', {}, /without a password/],
    ['http://host', { timeoutMs: 0 }, /timeoutMs/],
    ['http://host', { timeoutMs: 1e9 }, /timeoutMs/],
    ['http://host', { retries: -1 }, /retries/],
  ])('refuses %s %j', (url, options, message) => {
    expect(() => new JsonClient(url, options)).toThrow(message);
  });
});

it('Limiter runs so many at a time, and goes on after a failure', async () => {
  const limiter = new Limiter(2);
  let running = 0;
  let most = 0;
  const tasks = Array.from({ length: 7 }, (_, i) =>
    limiter.run(async () => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, 2));
      running--;
      if (i % 2 === 1) throw new Error(`${i}`);
      return i;
    }),
  );
  const settled = await Promise.allSettled(tasks);
  expect(settled.filter(({ status }) => status === 'fulfilled')).toHaveLength(4);
  expect(most).toBe(2);
  expect(() => new Limiter(0)).toThrow(/concurrency/);
});
