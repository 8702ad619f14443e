import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import type { Transport } from '../http/json-client.js';

/**
 * Node's own client: it waits as long as one asks. `fetch` gives up when the headers take five minutes, and an answer that
 * is not streamed has its headers at the end.
 */
export const nodeTransport: Transport = (url, { method, headers, body = '', signal }) =>
  new Promise((resolve, reject) => {
    const send = new URL(url).protocol === 'https:' ? requestHttps : requestHttp;
    const length = { 'content-length': String(Buffer.byteLength(body)) };
    const request = send(url, { method, headers: { ...headers, ...length }, signal }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        const retryAfter = response.headers['retry-after'] ?? null;
        resolve({ status: response.statusCode!, retryAfter, text: Buffer.concat(chunks).toString('utf8') });
      });
    });
    request.on('error', reject);
    request.end(body);
  });
