import { GrpoError, InvalidArgumentError } from '../errors.js';

/** A request to another program that got no usable answer. `status` is null where there was none. */
export class HttpError extends GrpoError {
  constructor(
    message: string,
    readonly reason: 'timeout' | 'connection' | 'status' | 'format',
    readonly status: number | null = null,
    options?: ErrorOptions,
  ) {
    super('GRPO_HTTP', message, options);
  }
}

export interface JsonRequest {
  method: string;
  headers: Readonly<Record<string, string>>;
  body: string | undefined;
  signal: AbortSignal;
}

/** Sends one request and reads the answer whole; rejects when the connection fails. */
export type Transport = (
  url: string,
  request: JsonRequest,
) => Promise<{ status: number; retryAfter: string | null; text: string }>;

export interface JsonClientOptions {
  /** Sent as `Authorization: Bearer …`; never part of a message. */
  apiKey?: string;
  /** Milliseconds that one attempt may take. Default 120,000. */
  timeoutMs?: number;
  /** Further attempts where trying again can help: no connection, timeout, 408, 429, 5xx. Default 4. */
  retries?: number;
  /** Milliseconds before the second attempt; doubles each time, up to 30 s, and varies by half. Default 500. */
  backoffMs?: number;
  /** Default: fetch, with which `timeoutMs` may be 290,000 at most. */
  transport?: Transport;
}

/** fetch gives up on its own after 5 minutes without an answer, whatever one asks. */
const longestFetchMs = 290_000;
const longestBackoffMs = 30_000;

/** Asks a server with JSON and reads JSON, patiently. */
export class JsonClient {
  readonly #origin: string;
  readonly #options: Required<Omit<JsonClientOptions, 'apiKey'>> & { apiKey: string | undefined };

  /** `url`: where the server is, with or without `/v1` at the end. */
  constructor(url: string, options: JsonClientOptions = {}) {
    const { apiKey, timeoutMs = 120_000, retries = 4, backoffMs = 500, transport = fetchTransport } = options;
    const longestTimeoutMs = transport === fetchTransport ? longestFetchMs : 2 ** 31 - 1;
    if (!/^https?:\/\/[^@]+$/.test(url))
      throw new InvalidArgumentError('url', 'an http address without a password', url);
    if (!(timeoutMs > 0 && timeoutMs <= longestTimeoutMs)) {
      throw new InvalidArgumentError('timeoutMs', `a number above 0 and up to ${longestTimeoutMs}`, timeoutMs);
    }
    if (!Number.isSafeInteger(retries) || retries < 0) throw new InvalidArgumentError('retries', '0 or more', retries);
    if (!(backoffMs >= 0)) throw new InvalidArgumentError('backoffMs', 'a number of 0 or more', backoffMs);
    this.#origin = url.replace(/\/+$/, '').replace(/\/v1$/, '');
    this.#options = { apiKey, timeoutMs, retries, backoffMs, transport };
  }

  /** Where the server is, without `/v1`. */
  get origin(): string {
    return this.#origin;
  }

  get(path: string, signal?: AbortSignal): Promise<unknown> {
    return this.#ask('GET', path, undefined, signal);
  }

  post(path: string, body: object, signal?: AbortSignal): Promise<unknown> {
    return this.#ask('POST', path, JSON.stringify(body), signal);
  }

  /** `post` without further attempts, for what must not be asked twice. */
  postOnce(path: string, body: object, signal?: AbortSignal): Promise<unknown> {
    return this.#ask('POST', path, JSON.stringify(body), signal, 0);
  }

  async #ask(
    method: string,
    path: string,
    body: string | undefined,
    signal: AbortSignal | undefined,
    retries = this.#options.retries,
  ) {
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const outcome = await this.#attempt(method, path, body, signal);
      if ('value' in outcome) return outcome.value;
      signal?.throwIfAborted();
      if (!outcome.again || attempt >= retries) throw outcome.error;
      const backoff = Math.min(longestBackoffMs, this.#options.backoffMs * 2 ** attempt) * (0.75 + Math.random() / 2);
      await pause(Math.max(backoff, outcome.afterMs), signal);
    }
  }

  async #attempt(
    method: string,
    path: string,
    body: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ value: unknown } | { error: HttpError; again: boolean; afterMs: number }> {
    const { apiKey, timeoutMs, transport } = this.#options;
    const url = this.#origin + path;
    const timeout = AbortSignal.timeout(timeoutMs);
    const headers: Record<string, string> = body === undefined ? {} : { 'content-type': 'application/json' };
    if (apiKey !== undefined) headers.authorization = `Bearer ${apiKey}`;
    let answer: Awaited<ReturnType<Transport>>;
    try {
      const both = signal ? AbortSignal.any([signal, timeout]) : timeout;
      answer = await transport(url, { method, headers, body, signal: both });
    } catch (cause) {
      const error = timeout.aborted
        ? new HttpError(`${url}: no answer after ${timeoutMs} ms`, 'timeout', null, { cause })
        : new HttpError(`${url}: ${reasonOf(cause)}`, 'connection', null, { cause });
      return { error, again: true, afterMs: 0 };
    }
    const { status, retryAfter, text } = answer;
    if (status < 200 || status > 299) {
      const again = status === 408 || status === 429 || status >= 500;
      const afterMs = Math.min(longestBackoffMs, 1000 * Number(retryAfter ?? 0)) || 0;
      return { error: new HttpError(`${url}: ${status}: ${text.slice(0, 500)}`, 'status', status), again, afterMs };
    }
    if (text === '') return { value: null };
    try {
      return { value: JSON.parse(text) };
    } catch (cause) {
      const error = new HttpError(`${url}: the answer is not JSON: ${text.slice(0, 100)}`, 'format', status, { cause });
      return { error, again: false, afterMs: 0 };
    }
  }
}

const fetchTransport: Transport = async (url, request) => {
  const response = await fetch(url, request);
  const { status, headers } = response;
  return { status, retryAfter: headers.get('retry-after'), text: await response.text() };
};

/** fetch hides what went wrong behind "fetch failed". */
function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  const inner = cause as (Error & { code?: string }) | undefined;
  return inner?.code ?? (inner?.message || message);
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    // A signal of its own, since Node warns when more than ten listeners wait on one.
    const own = signal && AbortSignal.any([signal]);
    const abort = () => {
      clearTimeout(timer);
      reject(own!.reason);
    };
    const timer = setTimeout(() => {
      own?.removeEventListener('abort', abort);
      resolve();
    }, ms);
    own?.addEventListener('abort', abort, { once: true });
  });
}
