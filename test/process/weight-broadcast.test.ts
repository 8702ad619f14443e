import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { glooLibraryPaths, loadAddon } from '../../src/backend/loader.js';
import { openDevice } from '../../src/backend/open-device.js';
import { openProcessGroup } from '../../src/distributed/open-process-group.js';
import type { CausalLM } from '../../src/models/causal-lm.js';
import { OpenAIEngine, type OpenAIEngineOptions } from '../../src/rollout/openai-engine.js';
import { WeightBroadcast, type WeightBroadcastOptions } from '../../src/rollout/weight-broadcast.js';
import type { Device } from '../../src/tensor.js';
import { tinyPolicy } from '../tiny-model.js';
import { runTraining, writeRun } from './training-ranks.js';
import { killLeftovers, type Program, start } from './watched-program.js';

vi.setConfig({ testTimeout: 60_000 });
// Without libgloo-dev the addon is built without collectives on the CPU.
const hasGloo = glooLibraryPaths(loadAddon().path).some((path) => existsSync(path));
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

const folder = mkdtempSync(join(tmpdir(), 'weight-broadcast-'));
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
  await writeRun(folder);
  // More weights than one piece.
  const wide = tinyPolicy({ device, seed: 3 }, { intermediateSize: 24_000 });
  await wide.save(join(folder, 'wide'));
  wide.dispose();
});
afterEach(() => {
  killLeftovers();
  expect(device.memory().liveTensors).toBe(0);
});
afterAll(() => {
  device.close();
  rmSync(folder, { recursive: true });
});

interface ServeOptions {
  model?: string;
  port?: string;
  args?: string[];
  env?: Record<string, string>;
}

async function serve({ model = 'model', port = '0', args = ['--weights-broadcast'], env }: ServeOptions = {}) {
  const fixed = ['--device', 'cpu', '--threads', '1', '--cache-bytes', '4000000', '--name', 'model'];
  const all = ['serve', '--model', model, '--port', port, ...fixed, ...args];
  const program = start(process.execPath, [main, ...all], { cwd: folder, env });
  const [url] = await program.until(/Serving model at (http:\S+)\/v1/);
  return { program, url: url! };
}

const sampling = { maxNewTokens: 12, n: 2, seed: 5 };
const prompts = (policy: CausalLM) => ['12+7=', 'a'].map((text) => policy.tokenizer.encode(text));

/** An engine whose policy begins with other weights than the server's. */
function trainer(
  url: string,
  { broadcast, policy = tinyPolicy({ device, seed: 7 }), ...options }: TrainerOptions = {},
) {
  const weights = new WeightBroadcast(policy, { timeoutSeconds: 20, ...broadcast });
  const engine = new OpenAIEngine({ kind: 'grpo', url, model: 'model', policy, weights, backoffMs: 50, ...options });
  return {
    policy,
    engine,
    /** Changes the policy, as an update does. */
    update(seed: number) {
      const other = tinyPolicy({ device, seed }, { intermediateSize: policy.config.intermediateSize });
      policy.parameters.copyFrom(other.parameters);
      other.dispose();
    },
    /** Expects that the server samples with the policy's weights, under this version. */
    async expectOwn(version: number) {
      const groups = (await engine.generate(prompts(policy), sampling)).flat();
      expect(groups.map((completion) => completion.version)).toEqual(groups.map(() => version));
      const sequences = groups.map(({ completionIds }, i) => {
        return { promptIds: prompts(policy)[Math.floor(i / 2)]!, completionIds };
      });
      const own = await policy.logProbs(sequences);
      for (const [i, { logProbs }] of groups.entries()) {
        for (const [t, value] of logProbs.entries()) expect(value).toBeCloseTo(own[i]![t]!, 5);
      }
    },
    async end() {
      await engine.close();
      policy.dispose();
    },
  };
}
type TrainerOptions = Partial<OpenAIEngineOptions> & { policy?: CausalLM; broadcast?: WeightBroadcastOptions };

// biome-ignore lint/suspicious/noExplicitAny: whatever JSON the server answered
async function ask(url: string, path: string, body?: object): Promise<{ status: number; body: Record<string, any> }> {
  const headers = { 'content-type': 'application/json' };
  const request = body && { method: 'POST', headers, body: JSON.stringify(body) };
  const response = await fetch(url + path, request);
  return { status: response.status, body: (await response.json()) as Record<string, unknown> };
}
const completion = { model: 'model', prompt: '12+7=', max_tokens: 30, seed: 3, logprobs: 0, ignore_eos: true };
const sample = async (url: string) => (await ask(url, '/v1/completions', completion)).body.choices[0];
const signal = (program: Program, name: NodeJS.Signals) => program.child.kill(name);

describe.skipIf(!hasGloo)('a server that is given weights by broadcast', () => {
  it('samples with those of the last update, each time', async () => {
    const { program, url } = await serve();
    const { engine, update, expectOwn, end } = trainer(url);
    await expectOwn(0);
    for (const version of [1, 2, 3]) {
      update(20 + version);
      await engine.weightsChanged();
      await expectOwn(version);
    }
    expect((await ask(url, '/v1/weights')).body).toEqual({ weights_version: 3 });
    await end();
    signal(program, 'SIGTERM');
    expect(await program.ended).toMatchObject({ code: 0 });
    expect(program.output).not.toContain('failed');
  });

  it('ends what runs with the old ones', async () => {
    const { url } = await serve();
    const { engine, update, expectOwn, end } = trainer(url);
    await expectOwn(0);
    const long = () => ask(url, '/v1/completions', { ...completion, max_tokens: 120, n: 8 });
    const { choices } = (await long()).body;
    const running = long();
    while ((await ask(url, '/health')).body.running === 0) await sleep(5);
    update(21);
    await engine.weightsChanged();
    expect((await running).body.choices).toEqual(choices);
    expect(choices[0]).toMatchObject({ weights_version: 0 });
    await expectOwn(1);
    await end();
  });

  it('has those that files would give it, in its own number format', async () => {
    mkdirSync(join(folder, 'weights'));
    const args = ['--weights-broadcast', '127.0.0.1', '--weights-dir', 'weights', '--dtype', 'bf16'];
    const { url } = await serve({ args });
    const { policy, engine, end } = trainer(url);
    const before = await sample(url);
    await engine.generate(prompts(policy), sampling);
    const broadcast = await sample(url);
    await policy.save(join(folder, 'weights', 'other'));
    expect((await ask(url, '/v1/weights', { path: 'other', version: 0 })).status).toBe(200);
    expect(await sample(url)).toEqual(broadcast);
    expect(broadcast.logprobs).not.toEqual(before.logprobs);
    await end();
  });

  it('may be killed and started again between two updates, or in the middle of one', async () => {
    const first = await serve();
    const { port } = new URL(first.url);
    const { engine, update, expectOwn, end } = trainer(first.url, { retries: 1 });
    await expectOwn(0);
    signal(first.program, 'SIGKILL');
    await first.program.ended;
    const second = await serve({ port });
    update(21);
    await engine.weightsChanged();
    await expectOwn(1);
    // It hangs, and is killed while it is waited for.
    signal(second.program, 'SIGSTOP');
    update(22);
    const given = engine.weightsChanged();
    given.catch(() => {});
    await sleep(500);
    signal(second.program, 'SIGKILL');
    await expect(given).rejects.toMatchObject({ code: 'GRPO_HTTP', reason: 'connection' });
    await serve({ port });
    await engine.weightsChanged();
    await expectOwn(2);
    await end();
  });

  it('that hangs is an error after the limit, and can be given weights when it goes on', async () => {
    const { program, url } = await serve();
    const limits = { timeoutMs: 2000, retries: 0, broadcast: { timeoutSeconds: 1 } };
    const { engine, update, expectOwn, end } = trainer(url, limits);
    await expectOwn(0);
    signal(program, 'SIGSTOP');
    update(21);
    await expect(engine.weightsChanged()).rejects.toMatchObject({ code: 'GRPO_HTTP', reason: 'timeout' });
    signal(program, 'SIGCONT');
    await engine.weightsChanged();
    await expectOwn(1);
    await end();
  });

  it.each([
    ['dies', 'SIGKILL'],
    ['hangs', 'SIGSTOP'],
  ])('keeps its old ones when the trainer %s after a part, and takes those of the next one', async (_, name) => {
    const { url } = await serve({ model: 'wide' });
    const before = await sample(url);
    const file = fileURLToPath(new URL('programs/die-while-giving.mjs', import.meta.url));
    const dying = start(process.execPath, [file, url, join(folder, 'wide'), name]);
    await dying.until(/given/);
    expect(await sample(url)).toEqual(before);
    expect((await ask(url, '/v1/weights')).body).toEqual({ weights_version: null });
    const next = trainer(url, { policy: tinyPolicy({ device, seed: 8 }, { intermediateSize: 24_000 }) });
    await next.expectOwn(0);
    await next.end();
  });

  it('does not wait for a trainer that never connects, when it ends or another one asks', async () => {
    const opening = new AbortController();
    const aborted = new Promise<never>((_, reject) => {
      opening.signal.addEventListener('abort', () => reject(opening.signal.reason));
    });
    const ours = { device, rank: 0, worldSize: 2, localRank: 0, timeoutSeconds: 60, interface: '127.0.0.1' };
    let opened: Promise<unknown> = Promise.resolve();
    const address = await new Promise<Uint8Array>((tell) => {
      const store = { set: async (_: string, own: Uint8Array) => tell(own), get: () => aborted };
      opened = openProcessGroup({ ...ours, store, signal: opening.signal });
    });
    const { program, url } = await serve();
    const { policy, expectOwn, end } = trainer(url);
    const silent = { engine: 'gloo', address: Buffer.from(address).toString('base64'), dtype: 'f32' };
    const layout = policy.parameters.layout();
    const meet = (id: string) => ask(url, '/v1/weights/group', { ...silent, id, layout, timeoutSeconds: 60 });
    expect((await meet('first')).status).toBe(200);
    await expectOwn(0);
    // Which of the two has to connect is left to chance.
    for (let i = 0; i < 10; i++) expect((await meet(`later ${i}`)).status).toBe(200);
    const begin = performance.now();
    signal(program, 'SIGTERM');
    expect(await program.ended).toMatchObject({ code: 0 });
    expect(performance.now() - begin).toBeLessThan(10_000);
    opening.abort(new Error('enough'));
    await expect(opened).rejects.toThrow('enough');
    await end();
  });

  it('follows the trainer that asked last', async () => {
    const { url } = await serve();
    const [one, other] = [trainer(url), trainer(url, { policy: tinyPolicy({ device, seed: 9 }) })];
    await one.expectOwn(0);
    await other.expectOwn(0);
    await one.engine.weightsChanged();
    await one.expectOwn(1);
    await one.end();
    await other.end();
  });
});

describe.skipIf(!hasGloo)('weights by broadcast are refused', () => {
  it('for another model, with the name of the parameter', async () => {
    const { url } = await serve({ model: 'wide' });
    const { policy, engine, end } = trainer(url);
    const asked = engine.generate(prompts(policy), sampling);
    await expect(asked).rejects.toMatchObject({ code: 'GRPO_HTTP', status: 400 });
    const name = 'model.layers.0.mlp.gate_proj.weight';
    await expect(asked).rejects.toThrow(`${name}[24000,32] for layout but received \\"${name}[64,32]\\"`);
    await end();
  });

  it('without the flag, and to who has no key', async () => {
    const closed = await serve({ args: [] });
    const { policy, engine, end } = trainer(closed.url);
    const asked = engine.generate(prompts(policy), sampling);
    await expect(asked).rejects.toMatchObject({
      code: 'GRPO_HTTP',
      status: 403,
      message: expect.stringMatching(/without --weights-broadcast/),
    });
    await end();
    const { url } = await serve({ env: { GRPO_API_KEY: 'a-secret' } });
    for (const path of ['/v1/weights', '/v1/weights/group']) expect((await ask(url, path, {})).status).toBe(401);
    const other = trainer(url, { apiKey: 'a-secret' });
    await other.expectOwn(0);
    await other.end();
  });

  it('when the request is wrong, and the server goes on', async () => {
    const { url } = await serve();
    const { policy, expectOwn, end } = trainer(url);
    const layout = policy.parameters.layout();
    const group = { id: 'g', engine: 'gloo', address: '', dtype: 'f32', layout, timeoutSeconds: 2 };
    const open = (change: object) => ask(url, '/v1/weights/group', { ...group, ...change });
    expect(await open({ dtype: 'i32' })).toMatchObject({ status: 400, body: { error: { param: 'dtype' } } });
    expect(await open({ address: '!' })).toMatchObject({ status: 400, body: { error: { param: 'address' } } });
    expect(await open({ layout: layout.slice(1) })).toMatchObject({ status: 400 });
    expect((await open({ engine: 'nccl' })).body.error.message).toMatch(/engine nccl is not supported by a cpu device/);
    const give = (broadcast: string) => ask(url, '/v1/weights', { broadcast, version: 1 });
    expect(await give('h')).toMatchObject({
      status: 409,
      body: { error: { message: expect.stringMatching(/no group h is open/) } },
    });
    for (const [id, bytes] of ['', 'abc', `\x08\0\0\0${'x'.repeat(8)}`, '\xff'.repeat(300)].entries()) {
      const address = Buffer.from(bytes, 'latin1').toString('base64');
      expect(await open({ id: `bad ${id}`, address })).toMatchObject({ status: 200 });
      const refused = { status: 409, body: { error: { message: expect.stringMatching(/the old ones stay/) } } };
      expect(await give(`bad ${id}`)).toMatchObject(refused);
    }
    expect((await ask(url, '/v1/weights', { version: 1 })).body.error.message).toMatch(/path: must be given, or broad/);
    expect((await ask(url, '/v1/weights')).body).toEqual({ weights_version: null });
    await expectOwn(0);
    await end();
  });
});

describe('without Gloo', () => {
  const env = { GRPO_GLOO_LIBRARY: join(folder, 'absent.so') };
  const missing = /The gloo backend is not available[\s\S]*absent\.so[\s\S]*libgloo-dev/;

  it('a server with --weights-broadcast does not start', () => {
    const args = ['serve', '--model', 'model', '--port', '0', '--device', 'cpu', '--weights-broadcast'];
    const { status, stderr } = spawnSync(process.execPath, [main, ...args], {
      ...{ cwd: folder, env: { ...process.env, ...env }, timeout: 30_000 },
    });
    expect(status).toBe(1);
    expect(String(stderr)).toMatch(missing);
  });

  it.skipIf(!hasGloo)('a trainer ends with what to install', async () => {
    const { url } = await serve();
    await writeRun(folder, { more: `engine: { kind: grpo, url: '${url}', weights: broadcast }` });
    const [ended] = await runTraining(1, ['train', 'run.yaml', '--output-dir', 'no-gloo'], {
      folder,
      envOf: () => env,
    });
    expect(ended!.code).toBe(1);
    expect(ended!.stderr).toMatch(missing);
  });
});

describe.skipIf(!hasGloo)('grpo train with weights: broadcast', () => {
  const train = async (name: string, ranks: number, engine: string) => {
    await writeRun(folder, { more: `engine: { kind: grpo, ${engine} }` });
    const ended = await runTraining(ranks, ['train', 'run.yaml', '--output-dir', name], { folder });
    expect(ended.map(({ code }) => code)).toEqual(ended.map(() => 0));
    return readFileSync(join(folder, name, 'model', 'model.safetensors'));
  };

  it('gives the bits that it gives with files, on one rank and on two', async () => {
    mkdirSync(join(folder, 'shared'));
    const { url } = await serve({ args: ['--weights-broadcast', '--weights-dir', 'shared'] });
    for (const ranks of [1, 2]) {
      const broadcast = await train(`broadcast-${ranks}`, ranks, `url: '${url}', weights: broadcast`);
      expect((await ask(url, '/v1/weights')).body).toEqual({ weights_version: 6 });
      const files = await train(`files-${ranks}`, ranks, `url: '${url}', weightsDir: shared`);
      expect(broadcast.equals(files)).toBe(true);
      expect(broadcast.equals(readFileSync(join(folder, 'model', 'model.safetensors')))).toBe(false);
    }
  }, 120_000);
});
