import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface FakeRequest {
  path: string;
  // biome-ignore lint/suspicious/noExplicitAny: whatever JSON the code under test sent
  body: any;
  headers: NodeJS.Dict<string | string[]>;
}

/** What a fake server does with a request: answers with JSON, or whatever it likes with the response itself. */
export type Answer = (
  request: FakeRequest,
  response: ServerResponse,
) => object | undefined | Promise<object | undefined>;

export interface FakeServer {
  url: string;
  requests: FakeRequest[];
  close(): Promise<void>;
}

export async function fakeServer(answer: Answer): Promise<FakeServer> {
  const requests: FakeRequest[] = [];
  const server = createServer(async (incoming, response) => {
    let text = '';
    for await (const chunk of incoming) text += chunk;
    const request = { path: incoming.url!, body: text ? JSON.parse(text) : null, headers: incoming.headers };
    requests.push(request);
    const body = await answer(request, response);
    if (body === undefined) return;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const close = async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${port}`, requests, close };
}
