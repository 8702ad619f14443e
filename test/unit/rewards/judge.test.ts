import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import {
  endpointJudge,
  type JudgeAnswer,
  type JudgeModel,
  type JudgeProblem,
  type JudgeRewardOptions,
  judgeQuestions,
  judgeReward,
  localJudge,
} from '../../../src/rewards/judge.js';
import { judgeMessages, readVerdict } from '../../../src/rewards/judge-prompt.js';
import type { RewardSample } from '../../../src/rewards/reward.js';
import { asRewards, scoreBatch } from '../../../src/rewards/score.js';
import { ServedModel } from '../../../src/serve/served-model.js';
import { ApiServer } from '../../../src/serve/server.js';
import type { Device } from '../../../src/tensor.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { type Answer, type FakeServer, fakeServer } from '../../fake-server.js';
import { tinyShape } from '../../tiny-model.js';
import { chatTemplate } from '../serve/serving.js';

const verdicts = { yes: 'YES', no: 'NO' };

function sample(completion: string, questions: unknown = ['Is it short?', 'Is it kind?'], extra = {}): RewardSample {
  const record = { messages: [{ role: 'user', content: 'Say hello.' }], scoring_questions: questions, ...extra };
  return { record, prompt: 'Say hello.', completion, completionIds: new Int32Array(), stopReason: 'stop' };
}

/** A judge that answers by a function of what it reads. */
function scripted(answer: (text: string, signal: AbortSignal) => JudgeAnswer | Promise<JudgeAnswer>) {
  const asked: string[] = [];
  const judge: JudgeModel = {
    answer: async (messages, _, signal) => {
      const text = messages.map(({ content }) => content).join('\n');
      asked.push(text);
      return answer(text, signal);
    },
  };
  return { judge, asked };
}

async function score(batch: RewardSample[], options: JudgeRewardOptions) {
  const problems: JudgeProblem[] = [];
  const reward = judgeReward({ onProblem: (problem) => problems.push(problem), ...options });
  return { scores: Array.from(await reward.score(batch)), problems, reward };
}

describe('judgeReward', () => {
  it('gives the share of the questions that are met', async () => {
    const { judge } = scripted((text) => (text.includes('# Question\n\nIs it short?') ? 'yes' : 'no'));
    const { scores } = await score([sample('Hi'), sample('Hi', ['Is it short?'])], { judge });
    expect(scores).toEqual([0.5, 1]);
    const own = await score([sample('Hi')], { judge, score: (met, total) => (met === total ? 2 : met / total - 2) });
    expect(own.scores).toEqual([-1.5]);
  });

  it('shows the whole conversation, whatever its roles and length, and only the answer that is meant', async () => {
    const messages = [
      { role: 'system', content: `Keep to rhyme. ${'x'.repeat(50_000)} END` },
      { role: 'user', content: 'First turn' },
      { role: 'assistant', content: 'Reply' },
      { role: 'user', content: 'Last turn' },
    ];
    const { judge, asked } = scripted(() => 'yes');
    const answer = ({ completion }: RewardSample) => /<answer>(.*)<\/answer>/.exec(completion)?.[1] ?? null;
    const batch = ['<think>hm</think><answer>Rose</answer>', 'nothing'].map((c) => sample(c, ['Fine?'], { messages }));
    const { scores } = await score(batch, { judge, answer });
    expect(scores).toEqual([1, 0]);
    expect(asked).toHaveLength(1);
    for (const { content } of messages) expect(asked[0]).toContain(content);
    expect(asked[0]).toMatch(/# Answer\n\nRose\n\n# Question\n\nFine\?/);
    expect(asked[0]).not.toContain('hm');
    const text = judgeMessages({ record: { prompt: 'raw' }, prompt: 'raw prompt' }, 'a', 'q', verdicts);
    expect(text[1]!.content).toContain('# Conversation\n\nraw prompt');
  });

  it.each<[string, JudgeAnswer]>([
    ['tie', { problem: 'tie', message: '' }],
    ['too-long', { problem: 'too-long', message: '' }],
    ['unclear', { problem: 'unclear', message: '' }],
  ])('a %s makes a sample unscorable, not 0, and only that one', async (reason, answer) => {
    const { judge } = scripted((text) => (text.includes('Bad') ? answer : 'yes'));
    const { scores, problems } = await score([sample('Bad'), sample('Good')], { judge });
    expect(scores).toEqual([Number.NaN, 1]);
    expect(problems.map((problem) => problem.reason)).toEqual([reason, reason]);
    // Questions are put side by side, so that their answers come in any order.
    expect(problems.map((problem) => problem.question).sort()).toEqual(['Is it kind?', 'Is it short?']);
  });

  it('a record without questions is left to other rewards; an empty list cannot be scored', async () => {
    const { judge } = scripted(() => 'yes');
    const batch = [sample('a', undefined), sample('a', []), sample('a', [' ']), sample('a', 'Is it?')];
    batch[0]!.record.scoring_questions = undefined;
    const { scores, problems } = await score(batch, { judge });
    expect(scores).toEqual([null, Number.NaN, Number.NaN, Number.NaN]);
    expect(problems.map(({ reason }) => reason)).toEqual(['questions', 'questions', 'questions']);
    expect(() => judgeQuestions({ scoring_questions: [] })).toThrow(/at least one question/);
    expect(judgeQuestions({ rubric: ['q'] }, 'rubric')).toEqual(['q']);
  });

  it('asks the same once, and again only what got no verdict', async () => {
    let failing = true;
    const { judge, asked } = scripted((text) => {
      if (text.includes('Flaky') && failing) throw new Error('down');
      return 'yes';
    });
    const { scores, reward } = await score([sample('Hi'), sample('Hi'), sample('Flaky', ['q'])], { judge });
    expect(scores).toEqual([1, 1, Number.NaN]);
    expect(asked).toHaveLength(3);
    failing = false;
    expect(await reward.score([sample('Hi'), sample('Flaky', ['q'])])).toEqual([1, 1]);
    expect(asked).toHaveLength(4);
    const uncached = await score([sample('Hi')], { judge, cacheSize: 0 });
    await uncached.reward.score([sample('Hi')]);
    expect(asked).toHaveLength(8);
  });

  it('asks so many questions at a time', async () => {
    let running = 0;
    let most = 0;
    const { judge } = scripted(async (): Promise<JudgeAnswer> => {
      most = Math.max(most, ++running);
      await new Promise((resolve) => setTimeout(resolve, 2));
      running--;
      return 'yes';
    });
    await score(
      Array.from({ length: 9 }, (_, i) => sample(`${i}`)),
      { judge, concurrency: 3 },
    );
    expect(most).toBe(3);
  });

  it('a judge that hangs costs its own questions after the time limit, no more', async () => {
    const { judge } = scripted((text) => (text.includes('Slow') ? new Promise<never>(() => {}) : 'yes'));
    const { scores, problems } = await score([sample('Slow'), sample('Fast')], { judge, timeoutMs: 60 });
    expect(scores).toEqual([Number.NaN, 1]);
    expect(problems.map(({ reason }) => reason)).toEqual(['failed', 'failed']);
  });

  it('a judge that is gone fails the batch with its reason, and training goes on', async () => {
    const { judge } = scripted(() => {
      throw new Error('connection refused');
    });
    const rewards = asRewards([judgeReward({ judge }), { name: 'one', score: (batch) => batch.map(() => 1) }]);
    const { totals, failures } = await scoreBatch(rewards, [sample('Hi')]);
    expect([...totals]).toEqual([Number.NaN]);
    expect(failures).toMatchObject([
      { reward: 'judge', reason: 'threw', message: expect.stringMatching(/none of 2.*connection refused/) },
    ]);
  });

  it.each([
    [{ judge: {} as JudgeModel }, /judge/],
    [{ verdicts: { yes: 'X', no: 'X' } }, /verdicts/],
    [{ timeoutMs: 0 }, /timeoutMs/],
    [{ concurrency: 0 }, /concurrency/],
  ])('refuses %j', (options, message) => {
    expect(() => judgeReward({ ...scripted(() => 'yes'), ...options })).toThrow(message);
  });
});

it.each<[string, 'yes' | 'no' | null]>([
  ['YES', 'yes'],
  [' **Yes**, it is.', 'yes'],
  ['no.', 'no'],
  ['<think>YES? No, hm.</think>\nNO', 'no'],
  ['<think>YES', null],
  ['Nothing of the kind', null],
  ['Yesterday', null],
  ['I think YES', null],
  ['', null],
])('the verdict of %j is %s', (reply, verdict) => {
  expect(readVerdict(reply, verdicts)).toBe(verdict);
});

describe('with a model', () => {
  let device: Device;
  let model: CausalLM;
  let api: ApiServer;
  let served: ServedModel;
  let url: string;
  /** Every character of the judge's prompt, and verdicts of several tokens. */
  const alphabet = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).join('');
  beforeAll(async () => {
    device = await openDevice('cpu', { matmul: 'builtin', threads: 1 });
    const tokenizer = Tokenizer.fromCharacters(`${alphabet}\n`, { chatTemplate });
    model = CausalLM.create({ ...tinyShape, maxPositionEmbeddings: 1200 }, tokenizer, { device, seed: 11 });
    served = new ServedModel(model, { name: 'judge', weightsDir: null, scheduler: { cacheBytes: 2 ** 22 } });
    api = new ApiServer(served, { port: 0, apiKey: 'judge-key' });
    url = await api.listen();
  });
  afterAll(async () => {
    await api.close();
    await served.close();
    model.dispose();
    expect(device.memory().liveTensors).toBe(0);
    device.close();
  });

  const signal = new AbortController().signal;
  const batch = ['Hi', 'Hello there', 'Go away'].map((text) =>
    sample(text, ['Is it short?', 'Is it kind?', 'Any dots?']),
  );
  /** What the model's own log-probs say of a question. */
  async function expected(text: string, question: string): Promise<number> {
    const messages = judgeMessages(batch[0]!, text, question, verdicts);
    const encode = (part: string) => model.tokenizer.encode(part, { addSpecialTokens: false });
    const promptIds = encode(model.tokenizer.applyChatTemplate(messages));
    const sequences = ['YES', 'NO'].map((verdict) => ({ promptIds, completionIds: encode(verdict) }));
    const [yes, no] = (await model.logProbs(sequences)).map((values) => values.reduce((a, b) => a + b, 0));
    return yes! > no! ? 1 : 0;
  }

  it('compares whole verdicts by log-probs: here, and the same over HTTP', async () => {
    const { tokenizer } = model;
    const endpoint = { url, model: 'judge', apiKey: 'judge-key' };
    const judges = [
      localJudge(model),
      endpointJudge({ ...endpoint, tokenizer, maxTokens: 1200 }),
      endpointJudge({ ...endpoint, tokenizer, maxTokens: 1200, method: 'log-probs' }),
    ];
    const want = await Promise.all(
      batch.map(async ({ completion, record }) => {
        const met = [];
        for (const question of record.scoring_questions as string[]) met.push(await expected(completion, question));
        return met.reduce((a, b) => a + b, 0) / 3;
      }),
    );
    for (const judge of judges) expect((await score(batch, { judge })).scores).toEqual(want);
    // The likelier of two texts wins, whichever of them means yes.
    const question = [{ role: 'user', content: 'q' }];
    const ask = (yes: string, no: string) => judges[0]!.answer(question, { yes, no }, signal);
    expect(new Set([await ask('a', 'b'), await ask('b', 'a')])).toEqual(new Set(['yes', 'no']));
  });

  it('flags a tie', async () => {
    const same = { yes: 'YES', no: 'YES' };
    const answer = await localJudge(model).answer([{ role: 'user', content: 'q' }], same, signal);
    expect(answer).toMatchObject({ problem: 'tie' });
  });

  it('does not judge what does not fit whole', async () => {
    const long = [{ role: 'user', content: 'x'.repeat(1300) }];
    const tooLong = { problem: 'too-long', message: expect.stringMatching(/1200/) };
    expect(await localJudge(model).answer(long, verdicts, signal)).toEqual(tooLong);
    const endpoint = { url, model: 'judge', apiKey: 'judge-key', retries: 0 };
    const judge = endpointJudge({ ...endpoint, tokenizer: model.tokenizer, maxTokens: 1200 });
    expect(await judge.answer(long, verdicts, signal)).toEqual(tooLong);
    await expect(endpointJudge(endpoint).answer(long, verdicts, signal)).rejects.toMatchObject({ status: 400 });
  });

  it('reads what the model says where there is no tokenizer', async () => {
    const judge = endpointJudge({ url, model: 'judge', apiKey: 'judge-key' });
    const answer = await judge.answer([{ role: 'user', content: 'q' }], verdicts, signal);
    // A model with random weights says neither.
    expect(answer).toMatchObject({ problem: 'unclear' });
  });
});

describe('endpointJudge on a server that', () => {
  const running: FakeServer[] = [];
  afterEach(async () => {
    for (const server of running.splice(0)) await server.close();
  });
  const tokenizer = Tokenizer.fromCharacters('abcYESNO<>\n ', { chatTemplate });
  async function judgeAt(answer: Answer, options = {}) {
    const server = await fakeServer(answer);
    running.push(server);
    const judge = endpointJudge({ url: server.url, model: 'm', backoffMs: 1, retries: 1, timeoutMs: 100, ...options });
    return {
      server,
      ask: () => judge.answer([{ role: 'user', content: 'a' }], verdicts, new AbortController().signal),
    };
  }
  const says = (content: string) => ({ choices: [{ message: { content } }] });

  it('gives no log-probs: is asked for text from then on', async () => {
    const { server, ask } = await judgeAt(
      ({ path }, response) => {
        if (path === '/v1/chat/completions') return says('Yes.');
        response.statusCode = 400;
        return { error: 'echo is not supported' };
      },
      { tokenizer, maxTokens: 100 },
    );
    expect([await ask(), await ask()]).toEqual(['yes', 'yes']);
    const chat = '/v1/chat/completions';
    expect(server.requests.map(({ path }) => path)).toEqual(['/v1/completions', chat, chat]);
    const strict = await judgeAt(() => ({ choices: [] }), { tokenizer, maxTokens: 100, method: 'log-probs' });
    await expect(strict.ask()).rejects.toMatchObject({ reason: 'format' });
  });

  it('tells the log-probs of the verdicts: all of their tokens count', async () => {
    // The last tokens alone would say NO, the first ones alone too.
    const { ask } = await judgeAt(
      ({ body }) => ({
        choices: body.prompt.map((ids: number[], index: number) => {
          const own = index === 0 ? [-1, -0.1, -1] : [-0.9, -0.9, -0.5].slice(0, 2).map((x) => x * 1.5);
          const rest = new Array(ids.length - own.length).fill(-3);
          return { index, logprobs: { token_logprobs: [null, ...rest.slice(1), ...own, -9].slice(0, ids.length + 1) } };
        }),
      }),
      { tokenizer, maxTokens: 100 },
    );
    expect(await ask()).toBe('yes');
  });

  it.each<[string, Answer, object]>([
    ['hangs', () => undefined, { reason: 'timeout' }],
    [
      'dies',
      (_, response) => {
        response.destroy();
        return undefined;
      },
      { reason: 'connection' },
    ],
    [
      'says garbage',
      (_, response) => {
        response.end('<html>');
        return undefined;
      },
      { reason: 'format' },
    ],
    ['answers something else', () => ({ result: 1 }), { reason: 'format' }],
    [
      'fails',
      (_, response) => {
        response.statusCode = 500;
        return {};
      },
      { reason: 'status', status: 500 },
    ],
  ])('%s: fails with the reason', async (_, answer, error) => {
    const { ask } = await judgeAt(answer);
    await expect(ask()).rejects.toMatchObject({ code: 'GRPO_HTTP', ...error });
  });

  it('comes back in time', async () => {
    let first = true;
    const { ask } = await judgeAt((_, response) => {
      if (!first) return says('NO');
      first = false;
      response.destroy();
      return undefined;
    });
    expect(await ask()).toBe('no');
  });

  it.each([
    [{ method: 'log-probs' as const }, /tokenizer/],
    [{ tokenizer }, /maxTokens/],
    [{ model: '' }, /model/],
  ])('is not described well: %#', (options, message) => {
    expect(() => endpointJudge({ url: 'http://host', model: 'm', ...options })).toThrow(message);
  });
});
