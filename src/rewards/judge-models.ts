import { z } from 'zod';
import type { ChatMessage } from '../data/prompts.js';
import { InvalidArgumentError } from '../errors.js';
import { HttpError, JsonClient, type JsonClientOptions } from '../http/json-client.js';
import { Limiter } from '../http/limiter.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { readVerdict, type Verdicts } from './judge-prompt.js';

/** A verdict, or why there is none: both verdicts equally likely, no room for the whole prompt, neither said. */
export type JudgeAnswer = 'yes' | 'no' | { problem: 'tie' | 'too-long' | 'unclear'; message: string };

/** A model that answers yes/no questions. A failure (no connection, say) rejects. */
export interface JudgeModel {
  answer(messages: readonly ChatMessage[], verdicts: Verdicts, signal: AbortSignal): Promise<JudgeAnswer>;
}

/** A judge's prompt in tokens, followed by each verdict. */
interface JudgeSequences {
  prompt: Int32Array;
  yes: Int32Array;
  no: Int32Array;
}

/** Written by the judge's own chat template and tokenizer; never cut: what does not fit is a problem. */
function encodeSequences(
  messages: readonly ChatMessage[],
  { yes, no }: Verdicts,
  tokenizer: Tokenizer,
  maxTokens: number,
): JudgeSequences | Exclude<JudgeAnswer, string> {
  const encode = (text: string) => tokenizer.encode(text, { addSpecialTokens: false });
  const sequences = { prompt: encode(tokenizer.applyChatTemplate(messages)), yes: encode(yes), no: encode(no) };
  if (sequences.yes.length === 0 || sequences.no.length === 0) {
    throw new InvalidArgumentError('verdicts', 'texts of at least one token', [yes, no]);
  }
  const needed = sequences.prompt.length + Math.max(sequences.yes.length, sequences.no.length);
  if (needed <= maxTokens) return sequences;
  return { problem: 'too-long', message: `${needed} tokens, the judge takes ${maxTokens}` };
}

/** Compares the log-probs of the whole verdicts. */
function compare(yes: Iterable<number>, no: Iterable<number>): JudgeAnswer {
  const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);
  const [forYes, forNo] = [sum(yes), sum(no)];
  if (forYes > forNo) return 'yes';
  if (forNo > forYes) return 'no';
  return { problem: 'tie', message: `both verdicts have the log-prob ${forYes}` };
}

/** A model in this process, whose weights stay as they are. */
export function localJudge(model: CausalLM): JudgeModel {
  // Questions together would take the memory of all.
  const limiter = new Limiter(1);
  return {
    answer: (messages, verdicts, signal) =>
      limiter.run(async () => {
        signal.throwIfAborted();
        const { tokenizer, config } = model;
        const sequences = encodeSequences(messages, verdicts, tokenizer, config.maxPositionEmbeddings);
        if ('problem' in sequences) return sequences;
        const { prompt, yes, no } = sequences;
        const [forYes, forNo] = await model.logProbs([
          { promptIds: prompt, completionIds: yes },
          { promptIds: prompt, completionIds: no },
        ]);
        return compare(forYes!, forNo!);
      }),
  };
}

export interface EndpointJudgeOptions extends JsonClientOptions {
  /** Address of an OpenAI-compatible server. */
  url: string;
  model: string;
  /** The judge's own tokenizer with its chat template, needed to compare log-probs. */
  tokenizer?: Tokenizer;
  /** Longest prompt with verdict, in tokens, that the server takes. Needed with `tokenizer`. */
  maxTokens?: number;
  /**
   * `log-probs` compares the probabilities of the verdicts (`/v1/completions` with `echo`), `text` reads what the judge
   * says (`/v1/chat/completions`). Default: log-probs where there is a tokenizer, until the server refuses them.
   */
  method?: 'log-probs' | 'text';
  /** Most tokens of a reply read as text. Default 16; a judge that reasons first needs more. */
  maxReplyTokens?: number;
}

const scoredAnswer = z.object({
  choices: z
    .array(z.object({ index: z.int(), logprobs: z.object({ token_logprobs: z.array(z.number().nullable()) }) }))
    .length(2),
});
const chatAnswer = z.object({ choices: z.array(z.object({ message: z.object({ content: z.string() }) })).min(1) });

/** A judge behind an OpenAI-compatible endpoint. */
export function endpointJudge(options: EndpointJudgeOptions): JudgeModel {
  const { url, model, tokenizer, maxTokens, method, maxReplyTokens = 16 } = options;
  if (typeof model !== 'string' || model === '') throw new InvalidArgumentError('model', 'a name', model);
  if (method === 'log-probs' && !tokenizer) throw new InvalidArgumentError('tokenizer', "the judge's own", tokenizer);
  if (tokenizer && !(maxTokens !== undefined && maxTokens > 0)) {
    throw new InvalidArgumentError('maxTokens', 'the longest prompt that the judge takes', maxTokens);
  }
  const client = new JsonClient(url, options);
  let asText = method === 'text' || !tokenizer;

  const byLogProbs = async (messages: readonly ChatMessage[], verdicts: Verdicts, signal: AbortSignal) => {
    const sequences = encodeSequences(messages, verdicts, tokenizer!, maxTokens!);
    if ('problem' in sequences) return sequences;
    const { prompt, yes, no } = sequences;
    const both = [yes, no].map((verdict) => [...prompt, ...verdict]);
    const body = { model, prompt: both, max_tokens: 0, echo: true, logprobs: 0, temperature: 1 };
    const { choices } = read(scoredAnswer, await client.post('/v1/completions', body, signal));
    const [forYes, forNo] = [yes, no].map((verdict, index) => {
      const values = choices.find((choice) => choice.index === index)?.logprobs.token_logprobs;
      // A server that samples a token in spite of max_tokens 0 tells of it after the prompt.
      const own = values?.slice(prompt.length, prompt.length + verdict.length) ?? [];
      const known = own.filter((value): value is number => value !== null);
      if (known.length !== verdict.length) {
        throw new HttpError(
          `${url}: log-probs of ${known.length} of the ${verdict.length} tokens of a verdict`,
          'format',
        );
      }
      return known;
    });
    return compare(forYes!, forNo!);
  };

  const byText = async (messages: readonly ChatMessage[], verdicts: Verdicts, signal: AbortSignal) => {
    const body = { model, messages, max_tokens: maxReplyTokens, temperature: 0 };
    const { choices } = read(chatAnswer, await client.post('/v1/chat/completions', body, signal));
    const reply = choices[0]!.message.content;
    const problem = { problem: 'unclear' as const, message: `the judge replied ${JSON.stringify(reply.slice(0, 80))}` };
    return readVerdict(reply, verdicts) ?? problem;
  };

  return {
    async answer(messages, verdicts, signal) {
      if (asText) return byText(messages, verdicts, signal);
      try {
        return await byLogProbs(messages, verdicts, signal);
      } catch (error) {
        if (method === 'log-probs' || !isRefusal(error)) throw error;
        const answer = await byText(messages, verdicts, signal);
        // Only now is it known that the server answers at all, but gives no log-probs.
        asText = true;
        return answer;
      }
    },
  };
}

function isRefusal(error: unknown): boolean {
  if (!(error instanceof HttpError)) return false;
  return error.reason === 'format' || [400, 404, 405, 422, 501].includes(error.status ?? 0);
}

function read<Schema extends z.ZodType>(schema: Schema, value: unknown): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new HttpError(`The judge's answer cannot be read: ${issue.path.join('.')}: ${issue.message}`, 'format');
}
