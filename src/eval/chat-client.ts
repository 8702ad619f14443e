import { z } from 'zod';
import type { ChatMessage } from '../data/prompts.js';
import { HttpError, JsonClient, type JsonClientOptions } from '../http/json-client.js';
import { Limiter } from '../http/limiter.js';
import { nodeTransport } from './node-transport.js';

export interface ChatClientOptions extends JsonClientOptions {
  /** Address of an OpenAI-compatible server: `http://localhost:8000/v1`. */
  url: string;
  /** The model's name at the server. */
  model: string;
  /** Requests under way at the same time. Default 16. */
  concurrency?: number;
}

export interface ChatRequest {
  messages: readonly ChatMessage[];
  /** Most tokens of the reply. */
  maxTokens: number;
  temperature?: number;
  topP?: number;
  seed?: number;
}

export interface ChatReply {
  content: string;
  /** What a server that takes reasoning apart gives beside the content. */
  reasoning: string | null;
  /** `stop`, `length` or what else the server says. */
  stopReason: string;
  /** Tokens of the reply; null when the server does not say. */
  tokens: number | null;
}

// A model that was cut off while it reasons has null for its content.
const message = z.object({
  content: z.string().nullable(),
  reasoning_content: z.string().nullish(),
  reasoning: z.string().nullish(),
});
const chatReply = z.object({
  choices: z.array(z.object({ message, finish_reason: z.string().nullish() })).min(1),
  usage: z.object({ completion_tokens: z.number().optional() }).nullish(),
});

/** Asks a chat model behind an OpenAI-compatible endpoint. */
export class ChatClient {
  readonly concurrency: number;
  readonly #model: string;
  readonly #client: JsonClient;
  readonly #limiter: Limiter;

  constructor({ url, model, concurrency = 16, ...options }: ChatClientOptions) {
    this.concurrency = concurrency;
    this.#model = model;
    this.#client = new JsonClient(url, { transport: nodeTransport, ...options });
    this.#limiter = new Limiter(concurrency);
  }

  /** Rejects with an `HttpError`, or with the reason of `signal`. */
  async complete({ messages, maxTokens, ...sampling }: ChatRequest, signal?: AbortSignal): Promise<ChatReply> {
    const { temperature, topP: top_p, seed } = sampling;
    const body = { model: this.#model, messages, max_tokens: maxTokens, temperature, top_p, seed };
    const value = await this.#limiter.run(() => this.#client.post('/v1/chat/completions', body, signal));
    const reply = chatReply.safeParse(value);
    if (!reply.success) {
      const { path, message } = reply.error.issues[0]!;
      throw new HttpError(`The reply of ${this.#model} cannot be read: ${path.join('.')}: ${message}`, 'format');
    }
    const { choices, usage } = reply.data;
    const { message: said, finish_reason } = choices[0]!;
    return {
      content: said.content ?? '',
      reasoning: said.reasoning_content ?? said.reasoning ?? null,
      stopReason: finish_reason ?? 'unknown',
      tokens: usage?.completion_tokens ?? null,
    };
  }
}
