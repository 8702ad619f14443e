import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { runProgram } from '../../../src/cli/program.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { tinyShape } from '../../tiny-model.js';
import { chatTemplate, type Serving, startServing } from '../serve/serving.js';

const key = 'a-secret-key';
let folder: string;
let serving: Serving;
beforeAll(async () => {
  vi.stubEnv('TEST_ROLLOUT_KEY', key);
  folder = await mkdtemp(join(tmpdir(), 'train-engine-'));
  serving = await startServing({ apiKey: key });
  await serving.policy.save(join(folder, 'model'));
  const device = await openDevice('cpu', { threads: 1 });
  const printable = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).join('');
  const tokenizer = Tokenizer.fromCharacters(`${printable}\n`, { chatTemplate });
  const judge = CausalLM.create({ ...tinyShape, maxPositionEmbeddings: 4096 }, tokenizer, { device, seed: 5 });
  await judge.save(join(folder, 'judge'));
  judge.dispose();
  expect(device.memory().liveTensors).toBe(0);
  device.close();
  const rows = ['12+7=', 'a', '3*3'].map((prompt) => ({ prompt, scoring_questions: ['Is it a number?'] }));
  await writeFile(join(folder, 'rows.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
  const reward = `import { isMainThread } from 'node:worker_threads';
    export const interrupted = (batch) => {
      process.emit('SIGINT');
      return batch.map(() => 1);
    };
    export const threads = (batch) => batch.map(({ completion }) => (isMainThread ? -1000 : completion.length));`;
  await writeFile(join(folder, 'reward.mjs'), reward);
});
afterAll(async () => {
  vi.unstubAllEnvs();
  await serving.close();
  await rm(folder, { recursive: true });
});
afterEach(() => vi.restoreAllMocks());

const run = `model: model
dataset: rows.jsonl
device: cpu
threads: 1
numGenerations: 4
perDeviceTrainBatchSize: 8
maxCompletionLength: 8
maxSteps: 2
learningRate: 1e-2
`;

const engine = (more = '') => `engine:
  kind: grpo
  url: ${serving.url}
  model: tiny
  weightsDir: ${serving.weightsDir}
  apiKeyEnv: TEST_ROLLOUT_KEY
${more}`;

async function train(name: string, config: string, ...flags: string[]): Promise<{ code: number; said: string }> {
  let said = '';
  const hear = (text: unknown) => {
    said += text;
    return true;
  };
  vi.spyOn(process.stderr, 'write').mockImplementation(hear);
  vi.spyOn(process.stdout, 'write').mockImplementation(hear);
  await writeFile(join(folder, `${name}.yaml`), `${config}outputDir: ${name}\n`);
  return { code: await runProgram(['train', join(folder, `${name}.yaml`), ...flags]), said };
}

const read = (...path: string[]) => readFile(join(folder, ...path), 'utf8');
const steps = async (name: string) =>
  (await read(name, 'metrics.jsonl'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('grpo train with an engine', () => {
  it('trains on completions of a server, scored in threads and by a judge in this process', async () => {
    const rewards = `rewards:
  - module: ./reward.mjs#threads
    pool: { size: 1, timeoutMs: 20000, samplesPerCall: 8 }
  - name: judge
    model: judge
    weight: 0.5
`;
    const ahead = 'rolloutCorrection: token-truncate\n';
    const { code, said } = await train('ahead', `${run}${ahead}${rewards}${engine('  maxStaleness: 1\n')}`);
    expect(said).not.toMatch(/could not score/);
    expect(code).toBe(0);
    const [first, second] = await steps('ahead');
    expect(first['rewards/threads/mean']).toBeGreaterThan(0);
    expect(first['rewards/judge/mean']).toBeGreaterThanOrEqual(0);
    expect(first.frac_reward_unscorable).toBe(0);
    expect([first['rollout/staleness'], second['rollout/staleness']]).toEqual([0, 1]);
    // The server has the weights of the last update, which the run has saved too.
    expect(await readdir(serving.weightsDir)).toEqual(['version-2']);
    const weights = await readFile(join(folder, 'ahead', 'model', 'model.safetensors'));
    expect(weights.equals(await readFile(join(serving.weightsDir, 'version-2', 'model.safetensors')))).toBe(true);
    expect(weights.equals(await readFile(join(folder, 'model', 'model.safetensors')))).toBe(false);
    // What the run recorded names the variable, not the key.
    expect(await read('ahead', 'config.yaml')).toContain('apiKeyEnv: TEST_ROLLOUT_KEY');
    for (const file of await readdir(join(folder, 'ahead'), { recursive: true, withFileTypes: true })) {
      if (file.isFile()) expect(await readFile(join(file.parentPath, file.name), 'latin1')).not.toContain(key);
    }
  });

  it('goes on with the server where it stopped, and asks a judge behind a url', async () => {
    const judge = `rewards:
  - name: judge
    url: ${serving.url}/v1
    model: tiny
    apiKeyEnv: TEST_ROLLOUT_KEY
    tag: answer
`;
    const config = `${run}saveSteps: 1\n${judge}${engine()}`;
    expect(await train('turns', config, '--max-steps', '1')).toMatchObject({ code: 0 });
    expect(await train('turns', config, '--resume')).toMatchObject({ code: 0 });
    const metrics = await steps('turns');
    // Without the tag no question is met, and the judge need not be asked.
    expect(metrics.map((step) => step['rewards/judge/mean'])).toEqual([0, 0]);
    expect(metrics.map((step) => step['rollout/staleness'])).toEqual([0, 0]);
  });

  it('stops at Ctrl-C, and gives up what was sampled ahead', async () => {
    const rewards = 'rewards: [./reward.mjs#interrupted, { module: ./reward.mjs#threads, pool: {} }]\n';
    const ahead = engine('  maxStaleness: 2\n');
    const config = `${run}rolloutCorrection: token-truncate\n${rewards}${ahead}`.replace('maxSteps: 2', 'maxSteps: 9');
    const { code, said } = await train('stopped', config);
    expect(said).toContain('Stopped after step 1 of 9');
    expect(code).toBe(130);
  });

  it('ends when the server does not answer, and does not wait for it', async () => {
    const away = engine('  retries: 0\n').replace(serving.url, 'http://127.0.0.1:1');
    const { code, said } = await train('away', `${run}rewards: ./reward.mjs#threads\n${away}`);
    expect(code).toBe(1);
    expect(said).toMatch(/127\.0\.0\.1:1\/v1\/weights: /);
  });

  it.each([
    ['  maxStalenes: 1', /:19:3: engine\.maxStalenes: unknown option; did you mean maxStaleness\?/],
    ['  maxStaleness: 1', /:19:3: engine\.maxStaleness: needs rolloutCorrection/],
    ['  retries: -1', /:19:3: engine\.retries: /],
    ['  weights: broadcast', /engine\.weightsDir: is idle with weights: broadcast/],
    ['  weights: folder', /:19:3: engine\.weights: /],
  ])('places what is wrong with %j', async (line, expected) => {
    const { code, said } = await train('wrong', `${run}rewards:\n  - format\n\n${engine(`${line}\n`)}`);
    expect(said).toMatch(expected);
    expect(code).toBe(2);
  });

  it.each([
    [/ {2}weightsDir: .*\n/, '', /engine\.weightsDir: must be given, or weights: broadcast/],
    [
      /kind: grpo([\s\S]*)weightsDir: .*\n/,
      'kind: vllm$1weights: broadcast\n',
      /weights: broadcast is for kind grpo; vllm/,
    ],
  ])('asks for one way to give weights: %s', async (what, by, expected) => {
    const { code, said } = await train('way', `${run}rewards: format\n${engine().replace(what, by)}`);
    expect(said).toMatch(expected);
    expect(code).toBe(2);
  });

  it.each([
    ['url: http://', `url: http://me:${key}@`, /engine\.url: must be an http address without user, password/],
    ['apiKeyEnv: TEST_ROLLOUT_KEY', `apiKeyEnv: ${key}`, /engine\.apiKeyEnv: must be the name of an environment/],
  ])('refuses a key in place of %j without showing it', async (good, bad, expected) => {
    const { code, said } = await train('leak', `${run}rewards: format\n${engine().replace(good, bad)}`);
    expect(said).toMatch(expected);
    expect(said).not.toContain(key);
    expect(code).toBe(2);
    expect(await readdir(folder)).not.toContain('leak');
  });

  it('plans without server, judge or threads', async () => {
    const rewards = 'rewards: [{ name: judge, model: absent }, { module: ./reward.mjs#threads, pool: {} }]\n';
    const { code, said } = await train('plan', `${run}${rewards}${engine()}`, '--dry-run');
    expect(said).toContain(`grpo at ${serving.url}`);
    expect(code).toBe(0);
  });

  it('is in the help', async () => {
    let help = '';
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
      help += text;
      return true;
    });
    expect(await runProgram(['train', '--help'])).toBe(0);
    expect(help).toMatch(/Sources \(in the file only\):\n(.*\n)* {2}engine +Server that samples/);
    expect(help.replace(/\s+/g, ' ')).toContain('repetition, regex, judge, raif)');
  });
});
