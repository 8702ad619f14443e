import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';

export interface HttpReply {
  status: number;
  /** Header `Retry-After` as it came. */
  retryAfter: string | undefined;
  text: string;
}

/**
 * Posts JSON and gives back what came, whatever the status. Rejects when the connection fails or `signal` aborts. Not
 * `fetch`, which gives up when the headers take five minutes: an answer that is not streamed has its headers at the end.
 */
export function postJson(
  url: URL,
  body: unknown,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<HttpReply> {
  const bytes = Buffer.from(JSON.stringify(body));
  const send = url.protocol === 'https:' ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const request = send(
      url,
      {
        method: 'POST',
        headers: { ...headers, 'content-type': 'application/json', 'content-length': bytes.length },
        signal,
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          resolve({ status: response.statusCode!, retryAfter: response.headers['retry-after'], text });
        });
      },
    );
    request.on('error', reject);
    request.end(bytes);
  });
}
