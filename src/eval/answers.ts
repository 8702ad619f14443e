import type { ChatMessage } from '../data/prompts.js';
import type { CausalLM } from '../models/causal-lm.js';
import { thinkingOf } from '../rewards/answer-part.js';
import type { ChatClient } from './chat-client.js';

export type Conversation = readonly ChatMessage[];

/** What a model said. */
export interface Answer {
  text: string;
  /** Reasoning that does not stand in the text: a server took it apart, or another model wrote it. */
  reasoning: string | null;
  /** `stop`, `length`, or what else a server says. */
  stopReason: string;
  tokens: number | null;
}

/** Answers conversations, in their order. `first` is the position of the first one in the benchmark. */
export interface AnswerSource {
  /** Conversations that are best answered in one call. */
  readonly batchSize: number;
  /** Calls that may run at the same time. */
  readonly concurrency: number;
  answer(conversations: readonly Conversation[], first: number, signal: AbortSignal): Promise<Answer[]>;
}

export interface DecodingOptions {
  maxTokens: number;
  /** 0 takes the most likely token. */
  temperature: number;
  topP: number;
  /** Absent: servers choose one; a local model uses 0. Each conversation gets the seed plus its position. */
  seed?: number;
}

/** Answers from a server. */
export function endpointAnswers(client: ChatClient, options: DecodingOptions): AnswerSource {
  return {
    batchSize: 1,
    concurrency: client.concurrency,
    answer: (conversations, first, signal) =>
      Promise.all(
        conversations.map(async (messages, i) => {
          const seed = options.seed === undefined ? undefined : options.seed + first + i;
          const { content, ...rest } = await client.complete({ ...options, seed, messages }, signal);
          return { text: content, ...rest };
        }),
      ),
  };
}

export interface LocalAnswerOptions extends DecodingOptions {
  batchSize: number;
  /** Give the last message as it is, without the chat template. */
  raw: boolean;
}

/** Answers from a model in this process. */
export function localAnswers(model: CausalLM, { batchSize, raw, ...options }: LocalAnswerOptions): AnswerSource {
  return {
    batchSize,
    concurrency: 1,
    answer: async (conversations, first, signal) => {
      const prompts = conversations.map((messages) => (raw ? messages.at(-1)!.content : messages));
      const { maxTokens: maxNewTokens, seed = 0, ...sampling } = options;
      const groups = await model.generate(prompts, { ...sampling, maxNewTokens, seed: seed + first, signal });
      return groups.map(([completion]) => {
        const { text, stopReason, completionIds } = completion!;
        return { text, reasoning: null, stopReason, tokens: completionIds.length };
      });
    },
  };
}

/** How the answering model gets the reasoning of another: in the last message, or as the begin of its own answer. */
export type Handover = 'message' | 'prefill';

/** Two-model inference: one model reasons, another one sees the reasoning and answers. */
export function twoModelAnswers(reasoner: AnswerSource, answerer: AnswerSource, handover: Handover): AnswerSource {
  return {
    batchSize: answerer.batchSize,
    concurrency: answerer.batchSize > 1 ? answerer.concurrency : Math.max(reasoner.concurrency, answerer.concurrency),
    answer: async (conversations, first, signal) => {
      const thoughts = (await reasoner.answer(conversations, first, signal)).map(reasoningOf);
      const informed = conversations.map((conversation, i) => withReasoning(conversation, thoughts[i]!, handover));
      const answers = await answerer.answer(informed, first, signal);
      return answers.map((answer, i) => ({ ...answer, reasoning: thoughts[i]! }));
    },
  };
}

/** What a server took apart, else what stands in think marks, else the whole text. */
export function reasoningOf({ text, reasoning }: Answer): string {
  return reasoning?.trim() || thinkingOf(text) || text.trim();
}

export function withReasoning(conversation: Conversation, reasoning: string, handover: Handover): ChatMessage[] {
  if (handover === 'prefill') {
    return [...conversation, { role: 'assistant', content: `<think>\n${reasoning}\n</think>\n` }];
  }
  const last = conversation.at(-1)!;
  const handed = `${last.content}\n\nAnother model has thought about this:\n\n<reasoning>\n${reasoning}\n</reasoning>\n\nUse its thoughts where they help. Give only the final answer to what was asked above.`;
  return [...conversation.slice(0, -1), { ...last, content: handed }];
}
