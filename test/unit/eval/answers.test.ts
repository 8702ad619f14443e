import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import {
  type Answer,
  endpointAnswers,
  localAnswers,
  reasoningOf,
  twoModelAnswers,
  withReasoning,
} from '../../../src/eval/answers.js';
import { ChatClient } from '../../../src/eval/chat-client.js';
import type { Device } from '../../../src/tensor.js';
import { tinyPolicy } from '../../tiny-model.js';
import { type ChatBody, type FakeReply, FakeServer } from './fake-server.js';

const servers: FakeServer[] = [];
let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 });
});
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

async function serve(reply: (body: ChatBody) => FakeReply) {
  const server = await FakeServer.start(reply);
  servers.push(server);
  return { server, client: new ChatClient({ url: server.url, model: 'm', concurrency: 4 }) };
}

const user = (content: string) => [{ role: 'user', content }];
const { signal } = new AbortController();
const decoding = { maxTokens: 6, temperature: 0, topP: 1 };

describe('endpointAnswers', () => {
  it('gives each conversation its own seed', async () => {
    const { server, client } = await serve(({ messages }) => ({ content: `re: ${messages[0]!.content}` }));
    const source = endpointAnswers(client, { ...decoding, seed: 100 });
    const answers = await source.answer([user('a'), user('b')], 5, signal);
    expect(answers.map(({ text, tokens, stopReason }) => [text, tokens, stopReason])).toEqual([
      ['re: a', 7, 'stop'],
      ['re: b', 7, 'stop'],
    ]);
    expect(server.requests.map(({ body }) => body.seed).sort()).toEqual([105, 106]);
  });
});

describe('localAnswers', () => {
  it('answers with a model of this process, whatever the batches', async () => {
    using policy = tinyPolicy({ device, seed: 2 });
    const source = localAnswers(policy, { ...decoding, batchSize: 3, raw: true });
    const prompts = ['1+1=', 'abc', '9'].map(user);
    const together = await source.answer(prompts, 0, signal);
    const alone = await Promise.all(prompts.map((prompt, i) => source.answer([prompt], i, signal)));
    expect(alone.flat()).toEqual(together);
    const expected = (await policy.generate(['1+1='], { maxNewTokens: 6, temperature: 0 }))[0]![0]!;
    expect(together[0]).toEqual({
      text: expected.text,
      reasoning: null,
      stopReason: expected.stopReason,
      tokens: expected.completionIds.length,
    });
  });
});

describe('two-model inference', () => {
  const answer = (text: string, reasoning: string | null = null): Answer => {
    return { text, reasoning, stopReason: 'stop', tokens: 1 };
  };

  it.each([
    ['what the server takes apart', answer('42', ' six times seven '), 'six times seven'],
    ['what stands in think marks', answer('<think>six times seven</think>42'), 'six times seven'],
    ['what stands before </think>', answer('six times seven</think>42'), 'six times seven'],
    ['thoughts that were cut off', answer('<think>six times'), 'six times'],
    ['the whole text without marks', answer('six times seven is 42'), 'six times seven is 42'],
  ])('takes for reasoning %s', (_, given, expected) => {
    expect(reasoningOf(given)).toBe(expected);
  });

  it('hands reasoning over in the last message or as the begin of the answer', () => {
    const conversation = [{ role: 'system', content: 's' }, ...user('Sum?')];
    const [system, last, ...none] = withReasoning(conversation, 'six', 'message');
    expect(system).toEqual(conversation[0]);
    expect(last!.content).toMatch(/^Sum\?\n\n.*<reasoning>\nsix\n<\/reasoning>/s);
    expect(none).toEqual([]);
    expect(withReasoning(conversation, 'six', 'prefill')).toEqual([
      ...conversation,
      { role: 'assistant', content: '<think>\nsix\n</think>\n' },
    ]);
  });

  it('asks the one model, then the other, and keeps the reasoning', async () => {
    const thinker = await serve(({ messages }) => ({ content: '', reasoning: `about ${messages[0]!.content}` }));
    const speaker = await serve(({ messages }) => ({
      content: `seen: ${/<reasoning>\n(.*)\n/.exec(messages[0]!.content)?.[1]}`,
    }));
    const source = twoModelAnswers(
      endpointAnswers(thinker.client, { ...decoding, maxTokens: 50 }),
      endpointAnswers(speaker.client, decoding),
      'message',
    );
    const answers = await source.answer([user('cats'), user('dogs')], 0, signal);
    expect(answers.map(({ text, reasoning }) => [text, reasoning])).toEqual([
      ['seen: about cats', 'about cats'],
      ['seen: about dogs', 'about dogs'],
    ]);
    expect(thinker.server.requests[0]!.body.max_tokens).toBe(50);
    expect(speaker.server.requests[0]!.body.max_tokens).toBe(6);
  });
});
