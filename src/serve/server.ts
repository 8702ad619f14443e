import { createHash, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { addressOf } from '../distributed/local-address.js';
import { GrpoError } from '../errors.js';
import { QueueFullError } from '../rollout/decode-scheduler.js';
import { ApiError } from './api-error.js';
import { generateStream, generateWhole } from './generate.js';
import { parseChat, parseCompletion, parseGroup, parseWeights, type ServedRequest } from './requests.js';
import type { ServedModel } from './served-model.js';

export interface ServerOptions {
  /** Default 127.0.0.1: this machine only. */
  host?: string;
  /** Default 8000; 0 takes a free one. */
  port?: number;
  /** What clients must send as `Authorization: Bearer …`; null: nothing. */
  apiKey?: string | null;
  /** Longest body of a request. Default 16 MiB. */
  maxBodyBytes?: number;
  /** Gets what went wrong inside, which clients are not told. */
  onError?: (error: unknown) => void;
}

type Route = (body: unknown, response: ServerResponse, signal: AbortSignal) => Promise<void> | void;

/** An HTTP server that speaks OpenAI's API for completions and chat, and takes new weights. */
export class ApiServer {
  readonly #model: ServedModel;
  readonly #options: Required<ServerOptions>;
  readonly #server: Server;
  readonly #active = new Set<AbortController>();
  #closing = false;

  constructor(model: ServedModel, options: ServerOptions = {}) {
    this.#model = model;
    this.#options = {
      host: '127.0.0.1',
      port: 8000,
      apiKey: null,
      maxBodyBytes: 16 * 2 ** 20,
      onError: () => {},
      ...options,
    };
    // Clients keep idle connections for a while; one that the server closes first can fail their next request.
    const keepAliveTimeout = 65_000;
    this.#server = createServer({ keepAliveTimeout }, (request, response) => void this.#handle(request, response));
  }

  /** Begins to answer. Returns the address, with the port that was taken. */
  async listen(): Promise<string> {
    const { host, port } = this.#options;
    this.#server.listen(port, host);
    await once(this.#server, 'listening');
    const address = this.#server.address() as AddressInfo;
    return `http://${address.family === 'IPv6' ? `[${address.address}]` : address.address}:${address.port}`;
  }

  /** Takes no more requests, gives those that run `graceMs` to end, and aborts the rest. */
  async close(graceMs = 0): Promise<void> {
    this.#closing = true;
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeIdleConnections();
    const timer = setTimeout(() => {
      for (const controller of this.#active) controller.abort(new ApiError(503, 'The server is shutting down'));
      // What was aborted gets its answer; a connection that still hangs then is cut.
      setTimeout(() => this.#server.closeAllConnections(), 200).unref();
    }, graceMs);
    await closed;
    clearTimeout(timer);
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const controller = new AbortController();
    this.#active.add(controller);
    response.on('close', () => {
      this.#active.delete(controller);
      if (!response.writableFinished) controller.abort(new Error('The client went away'));
      if (this.#closing) setImmediate(() => this.#server.closeIdleConnections());
    });
    try {
      if (this.#closing) throw new ApiError(503, 'The server is shutting down', null, { connection: 'close' });
      const route = this.#route(request);
      const body = request.method === 'POST' ? await this.#body(request) : null;
      await route(body, response, controller.signal);
    } catch (error) {
      this.#answerError(response, error);
    }
  }

  /** What answers the request, once it is known that it may be asked. */
  #route(request: IncomingMessage): Route {
    this.#checkHost(request);
    const pathname = request.url!.split('?')[0]!;
    const methods = this.#routes[pathname];
    if (pathname !== '/health') this.#checkKey(request);
    if (!methods) throw new ApiError(404, `There is no ${pathname} here`);
    const route = methods[request.method ?? ''];
    if (!route) {
      const allow = Object.keys(methods).join(', ');
      throw new ApiError(405, `${pathname} takes ${allow}`, null, { allow });
    }
    return route;
  }

  readonly #routes: Record<string, Record<string, Route>> = {
    '/health': {
      GET: (_, response) => json(response, 200, { status: 'ok', ...this.#model.scheduler.load }),
    },
    '/v1/models': {
      GET: (_, response) => {
        const { name, policy } = this.#model;
        const entry = { id: name, object: 'model', created: 0, owned_by: 'grpo-native' };
        const data = [{ ...entry, max_model_len: policy.config.maxPositionEmbeddings }];
        json(response, 200, { object: 'list', data });
      },
    },
    '/v1/completions': {
      POST: (body, response, signal) => this.#generate(parseCompletion(body, this.#model.policy), response, signal),
    },
    '/v1/chat/completions': {
      POST: (body, response, signal) => this.#generate(parseChat(body, this.#model.policy), response, signal),
    },
    '/v1/weights': {
      GET: (_, response) => json(response, 200, { weights_version: this.#model.version }),
      POST: async (body, response, signal) => {
        const { path, broadcast, version } = parseWeights(body);
        if (broadcast === undefined) await this.#model.reload(path!, version);
        else await this.#model.receive(broadcast, version, signal);
        json(response, 200, { weights_version: version });
      },
    },
    '/v1/weights/group': {
      POST: async (body, response) => {
        const address = await this.#model.meet(parseGroup(body), addressOf(response.socket!));
        json(response, 200, { address: Buffer.from(address).toString('base64') });
      },
    },
  };

  async #generate(request: ServedRequest, response: ServerResponse, signal: AbortSignal): Promise<void> {
    if (request.model !== this.#model.name) {
      throw new ApiError(404, `model: there is no ${request.model}, only ${this.#model.name}`, 'model');
    }
    if (!request.stream) {
      json(response, 200, await generateWhole(this.#model, request, signal));
      return;
    }
    const send = (data: object) => {
      response.write(`data: ${JSON.stringify(data)}\n\n`);
    };
    const begin = () => {
      response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
      response.flushHeaders();
    };
    await generateStream(this.#model, request, signal, { begin, send });
    response.end('data: [DONE]\n\n');
  }

  /** The parsed body. JSON must be called so, which keeps web pages from sending any unasked. */
  async #body(request: IncomingMessage): Promise<unknown> {
    const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
    if (type !== 'application/json') throw new ApiError(415, 'The content-type must be application/json');
    const { maxBodyBytes } = this.#options;
    const tooLarge = () => {
      return new ApiError(413, `The body has more than ${maxBodyBytes} bytes`, null, { connection: 'close' });
    };
    if (Number(request.headers['content-length'] ?? 0) > maxBodyBytes) throw tooLarge();
    const chunks: Buffer[] = [];
    let bytes = 0;
    // A refused body is left unread: the connection must stay open for the answer.
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > maxBodyBytes) throw tooLarge();
      chunks.push(chunk);
    }
    try {
      return JSON.parse(Buffer.concat(chunks).toString('utf8'));
    } catch (error) {
      throw new ApiError(400, `The body is not JSON: ${(error as Error).message}`);
    }
  }

  #checkKey(request: IncomingMessage): void {
    const { apiKey } = this.#options;
    if (apiKey === null) return;
    const digest = (text: string) => createHash('sha256').update(text).digest();
    const given = request.headers.authorization ?? '';
    if (timingSafeEqual(digest(given), digest(`Bearer ${apiKey}`))) return;
    throw new ApiError(401, 'The API key is missing or wrong', null, { 'www-authenticate': 'Bearer' });
  }

  /** A server of this machine answers to this machine's names only: a foreign name that points here is an attack. */
  #checkHost(request: IncomingMessage): void {
    if (!isLoopback(this.#options.host)) return;
    const name = (request.headers.host ?? '').replace(/:\d+$/, '');
    if (!isLoopback(name)) throw new ApiError(403, 'The Host header names another machine');
  }

  #answerError(response: ServerResponse, error: unknown): void {
    if (response.destroyed) return;
    const answer = asApiError(error);
    if (answer.status >= 500 && answer.status !== 503) this.#options.onError(error);
    if (!response.headersSent) json(response, answer.status, answer.body, answer.headers);
    else response.end(`data: ${JSON.stringify(answer.body)}\n\n`);
  }
}

export function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){3}|\[?::1\]?)$/i.test(host);
}

function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof QueueFullError) return new ApiError(429, error.message, null, { 'retry-after': '1' });
  const ofRequest = ['GRPO_INVALID_ARGUMENT', 'GRPO_UNSUPPORTED', 'GRPO_FILE_FORMAT'];
  if (error instanceof GrpoError && ofRequest.includes(error.code)) return new ApiError(400, error.message);
  return new ApiError(500, 'The server failed');
}

function json(response: ServerResponse, status: number, body: object, headers: Record<string, string> = {}): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    ...headers,
  });
  response.end(text);
}
