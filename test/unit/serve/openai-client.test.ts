import OpenAI, { type APIError } from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Serving, startServing } from './serving.js';

let serving: Serving;
let client: OpenAI;
beforeAll(async () => {
  serving = await startServing({ apiKey: 'secret-key' });
  client = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'secret-key', maxRetries: 0 });
});
afterAll(() => serving.close());

const model = 'tiny';
const messages = [{ role: 'user' as const, content: '12+7=' }];
const rendered = '<user>12+7=\n<assistant>';
/** Fields that the client's types do not know. */
type Extra = { token_ids: number[]; prompt_token_ids: number[]; weights_version: number | null };
const extra = <T extends object>(choice: T) => choice as T & Extra;

/** What the policy itself gives for a prompt, and the log-probs that the trainer computes. */
async function expected(prompt: string, options: object) {
  const { policy } = serving;
  const [completions] = await policy.generate([policy.tokenizer.encode(prompt)], { maxNewTokens: 8, ...options });
  return completions!;
}

describe('the openai client against grpo serve', () => {
  it('lists the model', async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(['tiny']);
  });

  it('completes text, n times, with the tokens and log-probs of the policy', async () => {
    const options = { model, prompt: '12+7=', max_tokens: 8, n: 3, seed: 4, temperature: 0.7, logprobs: 2 };
    const answer = await client.completions.create({ ...options, return_token_ids: true } as typeof options);
    const completions = await expected('12+7=', { n: 3, seed: 4, temperature: 0.7 });
    const promptIds = serving.policy.tokenizer.encode('12+7=');
    const scored = await serving.policy.logProbs(
      completions.map(({ completionIds }) => ({ promptIds, completionIds })),
      { temperature: 0.7 },
    );
    expect(answer.object).toBe('text_completion');
    expect(answer.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    for (const [i, choice] of answer.choices.entries()) {
      const { completionIds, text, stopReason } = completions[i]!;
      expect(choice.text).toBe(text);
      expect(choice.finish_reason).toBe(stopReason);
      expect(extra(choice).token_ids).toEqual([...completionIds]);
      expect(extra(choice).prompt_token_ids).toEqual([...promptIds]);
      const { tokens, token_logprobs, top_logprobs, text_offset } = choice.logprobs!;
      expect(Float32Array.from(token_logprobs!)).toEqual(scored[i]);
      expect(tokens!.slice(0, text.length).join('')).toBe(text);
      expect(text_offset!.slice(0, 3)).toEqual([0, 1, 2]);
      for (const [t, best] of top_logprobs!.entries()) {
        expect(Object.keys(best)).toHaveLength(2);
        const sampled = best[tokens![t]!];
        if (sampled !== undefined) expect(sampled).toBeCloseTo(token_logprobs![t]!, 4);
        else expect(Math.min(...Object.values(best))).toBeGreaterThan(token_logprobs![t]!);
      }
    }
    const sampled = completions.reduce((sum, { completionIds }) => sum + completionIds.length, 0);
    expect(answer.usage).toEqual({ prompt_tokens: 5, completion_tokens: sampled, total_tokens: 5 + sampled });
  });

  it('takes several prompts, as text or as token ids, as the native engine does', async () => {
    const { policy } = serving;
    const prompts = ['12+7=', 'a'].map((text) => policy.tokenizer.encode(text));
    const groups = await policy.generate(prompts, { maxNewTokens: 8, n: 2, seed: 3 });
    for (const prompt of [['12+7=', 'a'], prompts.map((ids) => [...ids])]) {
      const { choices } = await client.completions.create({ model, prompt, max_tokens: 8, n: 2, seed: 3 });
      expect(choices.map(({ text }) => text)).toEqual(groups.flat().map(({ text }) => text));
    }
    const ids = [...prompts[0]!];
    const { choices } = await client.completions.create({ model, prompt: ids, max_tokens: 8, seed: 3, n: 2 });
    expect(choices.map(({ text }) => text)).toEqual(groups[0]!.map(({ text }) => text));
  });

  it('answers a chat by the chat template of the model', async () => {
    const options = { model, messages, max_completion_tokens: 8, n: 2, seed: 4, logprobs: true, top_logprobs: 1 };
    const answer = await client.chat.completions.create(options);
    const completions = await expected(rendered, { n: 2, seed: 4 });
    expect(answer.object).toBe('chat.completion');
    for (const [i, { message, logprobs }] of answer.choices.entries()) {
      expect(message).toMatchObject({ role: 'assistant', content: completions[i]!.text });
      expect(Float32Array.from(logprobs!.content!, ({ logprob }) => logprob)).toEqual(completions[i]!.logProbs);
      for (const { token, bytes, top_logprobs } of logprobs!.content!) {
        expect(new TextDecoder().decode(Uint8Array.from(bytes!))).toBe(token);
        expect(top_logprobs).toHaveLength(1);
      }
    }
    const parts = [
      { type: 'text' as const, text: '12+' },
      { type: 'text' as const, text: '7=' },
    ];
    const same = await client.chat.completions.create({ ...options, messages: [{ role: 'user', content: parts }] });
    expect(same.choices.map(({ message }) => message.content)).toEqual(completions.map(({ text }) => text));
  });

  it('streams chats and texts: the parts make up the whole', async () => {
    const completions = await expected(rendered, { n: 2, seed: 4, maxNewTokens: 40 });
    const options = { model, n: 2, seed: 4, stream: true as const, stream_options: { include_usage: true } };
    const chat = await client.chat.completions.create({ ...options, messages, max_tokens: 40, logprobs: true });
    const texts = ['', ''];
    const finished: (string | null)[] = [];
    const logProbs: number[][] = [[], []];
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of chat) {
      usage = chunk.usage ?? usage;
      for (const { index, delta, finish_reason, logprobs } of chunk.choices) {
        texts[index] += delta.content ?? '';
        logProbs[index]!.push(...logprobs!.content!.map(({ logprob }) => logprob));
        if (finish_reason) finished[index] = finish_reason;
      }
    }
    expect(texts).toEqual(completions.map(({ text }) => text));
    expect(finished).toEqual(completions.map(({ stopReason }) => stopReason));
    expect(logProbs.map((values) => Float32Array.from(values))).toEqual(completions.map((c) => c.logProbs));
    expect(usage!.completion_tokens).toBe(logProbs.flat().length);

    const stream = await client.completions.create({ ...options, prompt: rendered, max_tokens: 40 });
    const streamed = ['', ''];
    for await (const { choices } of stream) for (const { index, text } of choices) streamed[index] += text;
    expect(streamed).toEqual(completions.map(({ text }) => text));
  });

  it('ends at a stop string, which never shows, streamed or not', async () => {
    const [plain] = await expected('a', { seed: 1, maxNewTokens: 40 });
    const stop = plain!.text.slice(6, 9);
    const cut = plain!.text.slice(0, plain!.text.indexOf(stop));
    const options = { model, prompt: 'a', max_tokens: 40, seed: 1, stop: ['never here', stop] };
    const { choices } = await client.completions.create(options);
    expect(choices[0]).toMatchObject({ text: cut, finish_reason: 'stop' });
    let streamed = '';
    for await (const chunk of await client.completions.create({ ...options, stream: true })) {
      streamed += chunk.choices[0]!.text;
      expect(cut.startsWith(streamed)).toBe(true);
    }
    expect(streamed).toBe(cut);
  });

  it('ends at given token ids, or at none', async () => {
    const { policy } = serving;
    const nine = policy.tokenizer.tokenId('9')!;
    const ask = async (more: object) => {
      const options = { model, prompt: 'a', max_tokens: 60, seed: 8, logit_bias: { [nine]: 5 }, ...more };
      const { choices } = await client.completions.create({ ...options, return_token_ids: true } as typeof options);
      return extra(choices[0]!);
    };
    const stopped = await ask({ stop_token_ids: [nine] });
    expect(stopped.token_ids.indexOf(nine)).toBe(stopped.token_ids.length - 1);
    expect(stopped.finish_reason).toBe('stop');
    expect((await ask({ ignore_eos: true })).token_ids).toHaveLength(60);
  });

  it('honours top_k, top_p, min_p and logit_bias', async () => {
    const ask = async (more: object) => {
      const { choices } = await client.completions.create({ model, prompt: '12+', max_tokens: 8, seed: 2, ...more });
      return choices[0]!.text;
    };
    const [greedy] = await expected('12+', { temperature: 0 });
    for (const filter of [{ temperature: 0 }, { top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }]) {
      expect(await ask(filter)).toBe(greedy!.text);
    }
    expect(await ask({ logit_bias: { [serving.policy.tokenizer.tokenId('7')!]: 100 } })).toBe('77777777');
  });

  it('scores a given text with echo', async () => {
    const prompt = '12+7=19';
    const options = { model, prompt, max_tokens: 0, echo: true, logprobs: 0 };
    const { choices, usage } = await client.completions.create(options);
    const ids = serving.policy.tokenizer.encode(prompt);
    const [scores] = await serving.policy.logProbs([{ promptIds: ids.slice(0, 1), completionIds: ids.slice(1) }]);
    expect(choices[0]!.text).toBe(prompt);
    const [first, ...rest] = choices[0]!.logprobs!.token_logprobs!;
    expect(first).toBeNull();
    expect(Float32Array.from(rest)).toEqual(scores);
    expect(usage!.completion_tokens).toBe(0);

    const more = await client.completions.create({ ...options, max_tokens: 4, seed: 1 });
    const [completion] = await expected(prompt, { maxNewTokens: 4, seed: 1 });
    expect(more.choices[0]!.text).toBe(prompt + completion!.text);
    expect(Float32Array.from(more.choices[0]!.logprobs!.token_logprobs!.slice(ids.length))).toEqual(
      completion!.logProbs,
    );
  });

  it.each<[string, object, RegExp, string | null]>([
    ['an unknown option', { prompt: 'a', beam: 2 }, /beam: is not supported/, 'beam'],
    ['a penalty that is not there', { prompt: 'a', presence_penalty: 1 }, /presence_penalty/, 'presence_penalty'],
    ['a wrong type', { prompt: 'a', max_tokens: 'many' }, /max_tokens/, 'max_tokens'],
    ['a temperature below 0', { prompt: 'a', temperature: -1 }, /temperature/, 'temperature'],
    ['no prompt', {}, /prompt/, 'prompt'],
    ['an empty prompt', { prompt: '' }, /at least one token/, null],
    ['a prompt beyond the context', { prompt: 'a'.repeat(256) }, /context of 256/, null],
    ['ids outside the vocabulary', { prompt: [999] }, /token id below/, null],
    ['a bias outside the vocabulary', { prompt: 'a', logit_bias: { 999: 1 } }, /logitBias/, null],
    ['alternatives for a prompt', { prompt: 'a', echo: true, logprobs: 2 }, /logprobs/, 'logprobs'],
    ['no tokens at all', { prompt: 'a', max_tokens: 0 }, /max_tokens/, 'max_tokens'],
  ])('refuses %s with 400', async (_, options, message, param) => {
    const asked = client.completions.create({ model, ...options } as OpenAI.CompletionCreateParamsNonStreaming);
    const error = (await asked.catch((caught: unknown) => caught)) as APIError;
    expect(error).toBeInstanceOf(OpenAI.BadRequestError);
    expect(error.message).toMatch(message);
    expect(error.param ?? null).toBe(param);
  });

  it('refuses another model, chat parts that are not text, and a streamed request, each before it begins', async () => {
    await expect(client.completions.create({ model: 'gpt', prompt: 'a' })).rejects.toThrow(OpenAI.NotFoundError);
    const image = [{ type: 'image_url' as const, image_url: { url: 'data:,' } }];
    const chat = client.chat.completions.create({ model, messages: [{ role: 'user', content: image }] });
    await expect(chat).rejects.toThrow(/messages/);
    const streamed = client.completions.create({ model, prompt: '', stream: true });
    await expect(streamed).rejects.toThrow(OpenAI.BadRequestError);
  });

  it('asks for the API key, except at /health', async () => {
    const stranger = new OpenAI({ baseURL: `${serving.url}/v1`, apiKey: 'secret-kez', maxRetries: 0 });
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError);
    const health = await fetch(`${serving.url}/health`);
    expect(await health.json()).toEqual({ status: 'ok', running: 0, waiting: 0 });
  });
});
