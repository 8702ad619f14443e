import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import '../../src/platform/node.js';
import { saveTinyModel } from '../saved-model.js';
import { type ChatBody, type FakeReply, FakeServer } from '../unit/eval/fake-server.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const fixtures = fileURLToPath(new URL('../fixtures/eval', import.meta.url));
const data = join(fixtures, 'input_data.jsonl');
const responses = join(fixtures, 'responses.jsonl');
vi.setConfig({ testTimeout: 120_000 });

let folder = '';
const servers: FakeServer[] = [];
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'grpo-eval-'));
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function serve(reply: (body: ChatBody, index: number) => FakeReply): Promise<FakeServer> {
  const server = await FakeServer.start(reply);
  servers.push(server);
  return server;
}

async function grpo(args: string[], { env = {}, started = (_: ChildProcess) => {} } = {}) {
  const child = spawn(process.execPath, [program, 'eval', ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  const result = { code: null as number | null, stdout: '', stderr: '' };
  child.stdout.on('data', (text) => (result.stdout += text));
  child.stderr.on('data', (text) => (result.stderr += text));
  started(child);
  [result.code] = (await once(child, 'close')) as [number | null];
  return result;
}

const read = (...path: string[]) => readFile(join(folder, ...path), 'utf8');
const json = async (...path: string[]) => JSON.parse(await read(...path));
const jsonLines = async (...path: string[]) =>
  (await read(...path))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

describe('grpo eval ifeval --responses', () => {
  const args = ['ifeval', '--data', data, '--responses', responses];

  it('writes the files of the original beside a summary and a report', async () => {
    const { code, stdout } = await grpo([...args, '--out', 'golden']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/prompts +28\.6 % {2}\(8\.2 – 64\.1\) +57\.1 %/);
    const names = ['eval_results_loose.jsonl', 'eval_results_strict.jsonl', 'report.html', 'run.json', 'summary.json'];
    expect((await readdir(join(folder, 'golden'))).sort()).toEqual(names);
    for (const name of names.slice(0, 2)) {
      expect(await read('golden', name)).toBe(await readFile(join(fixtures, name), 'utf8'));
    }
    const summary = await json('golden', 'summary.json');
    expect(summary).toMatchObject({ benchmark: 'IFEval', prompts: 7, instructions: 10, missing: 0, notes: [] });
    expect(summary.strict.promptLevel).toMatchObject({ hits: 2, count: 7, method: 'wilson' });
    expect(summary.loose.instructionLevel).toMatchObject({ hits: 7, count: 10, value: 0.7 });
    const page = await read('golden', 'report.html');
    expect(page).toContain('The Danube flows.');
    expect(page).not.toMatch(/\b(src|href)="[^#]/);
  });

  it('names missing and duplicate responses', async () => {
    const rows = (await readFile(responses, 'utf8')).trimEnd().split('\n');
    await writeFile(join(folder, 'some.jsonl'), rows.slice(2).join('\n'));
    const some = ['ifeval', '--data', data, '--responses', 'some.jsonl', '--out', 'some'];
    const refused = await grpo(some);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/no response to 2 of 7 prompts .*\n {2}105: "Mention the Elbe twice\."\n {2}106: /);
    const allowed = await grpo([...some, '--allow-missing']);
    expect(allowed.code).toBe(0);
    expect(allowed.stdout).toContain('2 of 7 prompts have no response and count as failures: 105, 106.');
    expect((await json('some', 'summary.json')).strict.promptLevel).toMatchObject({ hits: 2, count: 7 });

    await writeFile(join(folder, 'twice.jsonl'), [...rows, rows[0]].join('\n'));
    const twice = await grpo(['ifeval', '--data', data, '--responses', 'twice.jsonl', '--out', 'twice']);
    expect(twice.code).toBe(1);
    expect(twice.stderr).toMatch(/several responses to the same prompt:\n {2}lines 1 and 8: "Write nothing\."/);
    expect(twice.stderr).not.toContain('    at ');
  });

  it.each<[string[], RegExp]>([
    [['ifeval', '--data', data, '--out', 'x'], /needs either --model or --responses/],
    [[...args, '--model', 'm', '--out', 'x'], /needs either --model or --responses/],
    [[...args], /required option '--out/],
    [[...args, '--out', 'x', '--limit', '0'], /--limit: must be at least 1/],
    [['ifeval', '--data', data, '--out', 'x', '--model', 'm', '--reasoning-url', 'http://h'], /need each other/],
    [['judged', '--config', 'absent.yaml', '--out', 'x', '--responses', 'f'], /absent\.yaml: cannot read/],
  ])('%j ends with 2', async (bad, expected) => {
    const { code, stderr } = await grpo(bad);
    expect(stderr).toMatch(expected);
    expect(code).toBe(2);
  });
});

describe('grpo eval ifeval --model-url', () => {
  const args = (server: FakeServer, out: string, ...more: string[]) => {
    const model = ['--model-url', server.url, '--model', 'm', '--concurrency', '1'];
    return ['ifeval', '--data', data, '--out', out, ...model, ...more];
  };

  it('answers with a flaky server, and says how it went', async () => {
    const server = await serve((_, i) =>
      i % 3 === 1 ? { status: 429, headers: { 'retry-after': '0.01' } } : { content: 'Rhine' },
    );
    const { code, stdout, stderr } = await grpo(args(server, 'flaky', '--system', 'Be brief.'), {
      env: { OPENAI_API_KEY: 'key-1' },
    });
    expect(stderr).toContain('answers 7/7');
    expect(code).toBe(0);
    expect(stdout).toContain('Report:  flaky/report.html');
    expect(server.requests[0]!.body.messages[0]).toEqual({ role: 'system', content: 'Be brief.' });
    expect(server.requests[0]!.authorization).toBe('Bearer key-1');
    const rows = await jsonLines('flaky', 'responses.jsonl');
    expect(rows.map(({ id, response }) => [id, response])).toEqual(
      [0, 1, 2, 3, 4, 5, 6].map((i) => [`10${i}`, 'Rhine']),
    );
    // What a run wrote can be evaluated again as finished answers.
    const again = await grpo(['ifeval', '--data', data, '--responses', 'flaky/responses.jsonl', '--out', 'again']);
    expect(again.code).toBe(0);
    expect((await json('again', 'summary.json')).strict).toEqual((await json('flaky', 'summary.json')).strict);
    for (const name of await readdir(join(folder, 'flaky'))) expect(await read('flaky', name)).not.toContain('key-1');
  });

  it('continues after a kill, and asks for nothing twice', async () => {
    let child: ChildProcess | undefined;
    const killing = (_: ChatBody, i: number): FakeReply => {
      if (i === 4) child!.kill('SIGKILL');
      return { content: `answer ${i}`, delayMs: i === 4 ? 5000 : 0 };
    };
    let reply = killing;
    const server = await serve((body, i) => reply(body, i));
    const killed = await grpo(args(server, 'killed'), { started: (started) => (child = started) });
    expect(killed.code).not.toBe(0);
    expect(await jsonLines('killed', 'responses.jsonl')).toHaveLength(4);
    await writeFile(join(folder, 'killed', 'responses.jsonl'), '{"id":"104","prom', { flag: 'a' });

    reply = (_, i) => ({ content: `answer ${i}` });
    const resumed = await grpo(args(server, 'killed'));
    expect(resumed.stderr).toContain('4 of 7 answers are there already');
    expect(resumed.code).toBe(0);
    const rows = await jsonLines('killed', 'responses.jsonl');
    expect(rows.map(({ response }) => response)).toEqual([0, 1, 2, 3, 5, 6, 7].map((i) => `answer ${i}`));
    expect(server.requests).toHaveLength(8);

    const other = await grpo(args(server, 'killed', '--temperature', '0.7'));
    expect(other.code).toBe(2);
    expect(other.stderr).toMatch(/another configuration:\n {2}temperature: was 0, is 0\.7\n/);
    expect(server.requests).toHaveLength(8);
  });

  it('stops at Ctrl-C with what it has', async () => {
    let child: ChildProcess | undefined;
    const server = await serve((_, i) => {
      if (i === 2) child!.kill('SIGINT');
      return { content: 'x', delayMs: i === 2 ? 30_000 : 0 };
    });
    const begun = performance.now();
    const { code, stderr } = await grpo(args(server, 'stopped'), { started: (started) => (child = started) });
    expect(code).toBe(130);
    expect(stderr).toContain('Stopped. The same command continues stopped.');
    expect(performance.now() - begun).toBeLessThan(25_000);
    expect(await jsonLines('stopped', 'responses.jsonl')).toHaveLength(2);
  });

  it('names what it got no answer for, and tries only that again', async () => {
    let broken = true;
    const failing = ({ messages }: ChatBody) => broken && messages[0]!.content.includes('Elbe');
    const server = await serve((body) => (failing(body) ? { body: 'not JSON' } : { content: 'x' }));
    const failed = await grpo(args(server, 'failed'));
    expect(failed.code).toBe(1);
    expect(failed.stderr).toMatch(/1 of 7 failed:\n {2}105: .*not JSON.*\nThe same command tries these again/);
    const allowed = await grpo(args(server, 'failed', '--allow-missing'));
    expect(allowed.stdout).toContain('1 of 7 prompts got no answer and count as failures');
    expect((await json('failed', 'summary.json')).missing).toBe(1);
    broken = false;
    expect((await grpo(args(server, 'failed'))).code).toBe(0);
    expect(server.requests).toHaveLength(7 + 1 + 1);
    expect((await json('failed', 'summary.json')).missing).toBe(0);
  });

  it('ends at once when the key is wrong', async () => {
    const server = await serve(() => ({ status: 401, body: 'who are you?' }));
    const { code, stderr } = await grpo(args(server, 'unknown'));
    expect(code).toBe(1);
    expect(stderr).toMatch(/401: who are you\?/);
    expect(server.requests).toHaveLength(1);
  });

  it('hands the reasoning of one model to another', async () => {
    const thinker = await serve(() => ({ content: '<think>Rivers of Europe</think>Elbe' }));
    const server = await serve(({ messages }) => ({ content: `On ${/Rivers of \w+/.exec(messages.at(-1)!.content)}` }));
    const reasoning = ['--reasoning-url', thinker.url, '--reasoning-model', 'r1', '--handover', 'prefill'];
    const { code } = await grpo(args(server, 'two', '--limit', '2', ...reasoning));
    expect(code).toBe(0);
    const rows = await jsonLines('two', 'responses.jsonl');
    expect(rows.map(({ response, reasoning }) => [response, reasoning])).toEqual([
      ['On Rivers of Europe', 'Rivers of Europe'],
      ['On Rivers of Europe', 'Rivers of Europe'],
    ]);
    expect(server.requests[0]!.body.messages.map(({ role }) => role)).toEqual(['user', 'assistant']);
    expect(thinker.requests[0]!.body).toMatchObject({ model: 'r1', max_tokens: 8192 });
    expect(await read('two', 'report.html')).toContain('Rivers of Europe');
  });
});

describe('grpo eval maths', () => {
  it('answers with a local model', async () => {
    await saveTinyModel(join(folder, 'model'));
    const rows = Array.from({ length: 5 }, (_, i) => ({ question: `${i}+1=`, answer: `So.\n#### ${i + 1}` }));
    await writeFile(join(folder, 'maths.jsonl'), rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
    const local = [
      '--model',
      'model',
      '--raw',
      '--device',
      'cpu',
      '--threads',
      '1',
      '--batch-size',
      '2',
      '--max-tokens',
      '4',
    ];
    const args = ['maths', '--data', 'maths.jsonl', '--instruction', '', '--out', 'maths', ...local];
    const { code, stdout } = await grpo(args);
    expect(code).toBe(0);
    expect(stdout).toMatch(/\d right, \d wrong.*, 0 undecided, 0 missing/);
    const { correct, wrong, undecided, accuracy } = await json('maths', 'summary.json');
    expect(correct + wrong + undecided).toBe(5);
    expect(accuracy.count).toBe(5);
    // Cut after two of three batches, it continues to the same answers.
    const answers = await read('maths', 'responses.jsonl');
    await writeFile(join(folder, 'maths', 'responses.jsonl'), `${answers.split('\n').slice(0, 4).join('\n')}\n`);
    expect((await grpo(args)).code).toBe(0);
    expect(await read('maths', 'responses.jsonl')).toBe(answers);
  });

  it('matches finished answers by the question alone', async () => {
    const rows = [{ question: 'How many?', answer: '#### 12' }];
    await writeFile(join(folder, 'one.jsonl'), rows.map((row) => JSON.stringify(row)).join('\n'));
    await writeFile(join(folder, 'done.jsonl'), JSON.stringify({ prompt: 'How many?', response: '\\boxed{12}' }));
    const { stdout } = await grpo(['maths', '--data', 'one.jsonl', '--responses', 'done.jsonl', '--out', 'done']);
    expect(stdout).toContain('1 right, 0 wrong, 0 undecided, 0 missing');
  });
});

describe('grpo eval judged', () => {
  const items = [
    {
      id: 'a',
      instruction: 'A poem about rain.',
      input: 'Short.',
      decomposed_questions: ['Rain?', 'Short?'],
      subset: 'easy',
    },
    { id: 'b', instruction: 'A list.', input: '', decomposed_questions: ['List?', 'Unclear?'], subset: 'hard' },
  ];

  it('puts the questions of each item to the judge, and goes on where it stopped', async () => {
    const server = await serve(({ messages }) => ({ content: `text for ${messages[0]!.content}` }));
    let calls = 0;
    const judge = await serve(({ messages }) => {
      calls++;
      const content = messages.at(-1)!.content;
      if (content.includes('Unclear?')) return { content: 'Perhaps' };
      return { content: content.includes('Short?') ? 'NO' : 'YES' };
    });
    await writeFile(join(folder, 'bench.jsonl'), items.map((item) => JSON.stringify(item)).join('\n'));
    const config = `name: bench
data: bench.jsonl
fields:
  id: id
  prompt: "{instruction}\\n\\n{input}"
  questions: decomposed_questions
  category: subset
judge:
  url: ${judge.url}
  model: judge
`;
    await writeFile(join(folder, 'bench.yaml'), config);
    const args = ['judged', '--config', 'bench.yaml', '--model-url', server.url, '--model', 'm', '--out', 'judged'];
    const { code, stdout } = await grpo(args);
    expect(code).toBe(0);
    expect(stdout).toContain('1 questions got no verdict from the judge and count in no share.');
    const summary = await json('judged', 'summary.json');
    expect(summary).toMatchObject({ items: 2, questions: 4, unanswered: 1, questionLevel: { hits: 2, count: 3 } });
    expect(summary.itemLevel).toMatchObject({ hits: 0, count: 1 });
    expect(summary.byCategory.hard).toMatchObject({ hits: 1, count: 1 });
    const verdicts = await jsonLines('judged', 'verdicts.jsonl');
    expect(verdicts.toSorted((x, y) => (x.id < y.id ? -1 : 1))).toEqual([
      { id: 'a', verdicts: [true, false] },
      { id: 'b', verdicts: [true, null] },
    ]);
    expect(server.requests.map(({ body }) => body.messages[0]!.content).sort()).toEqual([
      'A list.',
      'A poem about rain.\n\nShort.',
    ]);

    const kept = verdicts.find(({ id }) => id === 'a');
    await writeFile(join(folder, 'judged', 'verdicts.jsonl'), `${JSON.stringify(kept)}\n`);
    expect((await grpo(args)).code).toBe(0);
    expect(calls).toBe(4 + 2);
    expect(server.requests).toHaveLength(2);
    expect(await json('judged', 'summary.json')).toEqual(summary);

    const { stderr, code: refused } = await grpo([...args, '--after-think']);
    expect(stderr).toMatch(/part\.afterThink: was absent, is true/);
    expect(refused).toBe(2);
  });

  it('says where a description is wrong', async () => {
    await writeFile(
      join(folder, 'bad.yaml'),
      'data: bench.jsonl\nfields:\n  prompt: p\n  question: q\njudge:\n  model: m\n',
    );
    const { code, stderr } = await grpo(['judged', '--config', 'bad.yaml', '--responses', 'x', '--out', 'bad']);
    expect(stderr).toMatch(/bad\.yaml:2:1: fields\.questions: /);
    expect(code).toBe(2);
  });
});
