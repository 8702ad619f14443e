import type { ChatMessage } from '../data/prompts.js';
import { GrpoError, InvalidArgumentError } from '../errors.js';
import { type HttpReply, postJson } from './post-json.js';
import { Slots } from './slots.js';

export interface ChatClientOptions {
  /** Base URL of an OpenAI-compatible server, up to and including its version: `http://localhost:8000/v1`. */
  url: string;
  /** The model's name at the server. */
  model: string;
  apiKey?: string;
  /** Requests under way at the same time. Default 16. */
  concurrency?: number;
  /** Milliseconds for one try. Default 600,000. */
  timeoutMs?: number;
  /** Tries after the first one. Default 5. */
  retries?: number;
  /** Milliseconds before the first retry; each further wait is twice as long. Default 1000. */
  backoffMs?: number;
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

/** A request that an endpoint did not answer, after all tries. */
export class EndpointError extends GrpoError {
  /** No other request can do better: the key, the model or the address is wrong. */
  readonly fatal: boolean;

  constructor(message: string, { fatal = false, cause }: { fatal?: boolean; cause?: unknown } = {}) {
    super('GRPO_ENDPOINT', message, { cause });
    this.fatal = fatal;
  }
}

/** One failed try that another may mend. */
class Transient extends Error {
  constructor(
    message: string,
    readonly waitMs: number | null = null,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

const longestWaitMs = 60_000;

/** Asks a chat model behind an OpenAI-compatible endpoint, with retries, back-off and limits. */
export class ChatClient {
  readonly #url: URL;
  readonly #options: Required<Omit<ChatClientOptions, 'apiKey' | 'url'>>;
  readonly #headers: Record<string, string>;
  readonly #slots: Slots;

  constructor({ url, apiKey, ...options }: ChatClientOptions) {
    this.#options = { concurrency: 16, timeoutMs: 600_000, retries: 5, backoffMs: 1000, ...definedOnly(options) };
    this.#url = chatUrl(url);
    this.#headers = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
    this.#slots = new Slots(this.#options.concurrency);
  }

  get concurrency(): number {
    return this.#options.concurrency;
  }

  /** Rejects with an `EndpointError`, or with the reason of `signal`. */
  async complete(request: ChatRequest, signal?: AbortSignal): Promise<ChatReply> {
    const { retries, backoffMs } = this.#options;
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#slots.run(() => this.#try(request, signal), signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof Transient)) throw error;
        if (attempt === retries) {
          const tries = retries === 0 ? '' : ` (after ${retries + 1} tries)`;
          throw new EndpointError(`${this.#url.href}: ${error.message}${tries}`, { cause: error });
        }
        // Up to half of the wait is random, so that requests that failed together do not come back together.
        const wait = error.waitMs ?? backoffMs * 2 ** attempt * (1 - Math.random() / 2);
        await sleep(Math.min(wait, longestWaitMs), signal);
      }
    }
  }

  async #try(request: ChatRequest, signal: AbortSignal | undefined): Promise<ChatReply> {
    const { model, timeoutMs } = this.#options;
    const body = {
      model,
      messages: request.messages,
      max_tokens: request.maxTokens,
      temperature: request.temperature,
      top_p: request.topP,
      seed: request.seed,
    };
    const limit = AbortSignal.timeout(timeoutMs);
    const both = signal ? AbortSignal.any([signal, limit]) : limit;
    let reply: HttpReply;
    try {
      reply = await postJson(this.#url, body, this.#headers, both);
    } catch (error) {
      signal?.throwIfAborted();
      const problem = limit.aborted ? `no reply within ${timeoutMs / 1000} s` : connectionProblem(error);
      throw new Transient(problem, null, { cause: error });
    }
    this.#checkStatus(reply);
    return readReply(reply.text);
  }

  #checkStatus({ status, retryAfter, text }: HttpReply): void {
    if (status === 200) return;
    const problem = `HTTP ${status}: ${serverMessage(text)}`;
    if ([408, 409, 425, 429].includes(status) || status >= 500) throw new Transient(problem, retryAfterMs(retryAfter));
    const hint = status === 404 ? '; does the address end with /v1, and does the server have this model?' : '';
    const fatal = [401, 403, 404, 405].includes(status) || status < 400;
    throw new EndpointError(`${this.#url.href}: ${problem}${hint}`, { fatal });
  }
}

function chatUrl(base: string): URL {
  const url = URL.canParse(base) ? new URL(base) : null;
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new InvalidArgumentError('url', 'an address such as http://localhost:8000/v1', base);
  }
  return new URL('chat/completions', `${url.href.replace(/\/+$/, '')}/`);
}

function readReply(text: string): ChatReply {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Transient(`the reply is not JSON: ${excerpt(text)}`);
  }
  const { choices, usage } = (value ?? {}) as { choices?: unknown; usage?: { completion_tokens?: unknown } };
  const choice = Array.isArray(choices) ? choices[0] : undefined;
  const message = choice?.message;
  // A model that was cut off while it reasons has null for its content.
  if (typeof message !== 'object' || message === null || !['string', 'object'].includes(typeof message.content)) {
    throw new Transient(`the reply has no choices[0].message.content: ${excerpt(text)}`);
  }
  const reasoning = message.reasoning_content ?? message.reasoning;
  const tokens = usage?.completion_tokens;
  return {
    content: typeof message.content === 'string' ? message.content : '',
    reasoning: typeof reasoning === 'string' ? reasoning : null,
    stopReason: typeof choice.finish_reason === 'string' ? choice.finish_reason : 'unknown',
    tokens: typeof tokens === 'number' ? tokens : null,
  };
}

/** `error.message`, which OpenAI-compatible servers send, else the beginning of the text. */
function serverMessage(text: string): string {
  try {
    const value = JSON.parse(text);
    const message = value?.error?.message ?? value?.message ?? value?.detail;
    if (typeof message === 'string') return excerpt(message);
  } catch {
    // Not JSON: a proxy's page, most of the time.
  }
  return excerpt(text);
}

function excerpt(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  if (line === '') return 'nothing more';
  return line.length > 200 ? `${line.slice(0, 197)}...` : line;
}

function connectionProblem(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  // A name with several addresses fails with an AggregateError, whose own message is empty.
  return message || code || 'the connection failed';
}

/** Seconds, or a date; null when the header is absent or neither. */
function retryAfterMs(header: string | undefined): number | null {
  if (header === undefined) return null;
  const seconds = Number(header);
  const wait = header.trim() !== '' && Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : null;
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const stop = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

function definedOnly<T extends object>(options: T): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}
