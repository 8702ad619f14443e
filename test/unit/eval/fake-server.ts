import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { ChatMessage } from '../../../src/data/prompts.js';

export interface ChatBody {
  model: string;
  messages: ChatMessage[];
  max_tokens: number;
  temperature?: number;
  seed?: number;
}

export interface FakeReply {
  status?: number;
  headers?: Record<string, string>;
  /** An object becomes JSON. Default: a chat completion with `content`. */
  body?: unknown;
  content?: string | null;
  reasoning?: string;
  finishReason?: string;
  /** Ends the connection without a reply. */
  hangUp?: boolean;
  delayMs?: number;
}

/** An OpenAI-compatible server whose replies a test decides. */
export class FakeServer {
  readonly requests: { body: ChatBody; authorization: string | undefined; url: string }[] = [];
  /** The most requests that were under way at the same time. */
  mostAtOnce = 0;
  #atOnce = 0;
  readonly #server: Server;

  private constructor(reply: (body: ChatBody, index: number) => FakeReply) {
    this.#server = createServer((request, response) => {
      this.mostAtOnce = Math.max(this.mostAtOnce, ++this.#atOnce);
      response.on('close', () => this.#atOnce--);
      const chunks: Buffer[] = [];
      request.on('data', (chunk) => chunks.push(chunk));
      request.on('end', () => {
        const body = JSON.parse(Buffer.concat(chunks).toString()) as ChatBody;
        const index = this.requests.length;
        this.requests.push({ body, authorization: request.headers.authorization, url: request.url! });
        const given = reply(body, index);
        setTimeout(() => {
          if (given.hangUp) return request.socket.destroy();
          const text = typeof given.body === 'string' ? given.body : JSON.stringify(given.body ?? completion(given));
          response.writeHead(given.status ?? 200, { 'content-type': 'application/json', ...given.headers }).end(text);
        }, given.delayMs ?? 0);
      });
    });
  }

  static async start(reply: (body: ChatBody, index: number) => FakeReply): Promise<FakeServer> {
    const fake = new FakeServer(reply);
    await new Promise<void>((resolve) => fake.#server.listen(0, '127.0.0.1', resolve));
    return fake;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/v1`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

function completion({ content = '', reasoning, finishReason = 'stop' }: FakeReply): object {
  const message = { role: 'assistant', content, reasoning_content: reasoning };
  return { choices: [{ index: 0, message, finish_reason: finishReason }], usage: { completion_tokens: 7 } };
}
