import { z } from 'zod';
import { nodeTransport } from '../eval/node-transport.js';
import type { JsonClientOptions } from '../http/json-client.js';

/** Where a server is that a configuration names. The key itself is never part of a configuration. */
export const serverShape = {
  /** Address, such as `http://127.0.0.1:8000`. */
  url: z.string(),
  /** Name of the environment variable that holds the key. */
  apiKeyEnv: z.string().optional(),
};

/** Reports what is wrong with address and key without showing either: somebody may have put a secret there. */
export function checkServer({ url, apiKeyEnv }: { url?: string; apiKeyEnv?: string }, context: z.RefinementCtx): void {
  if (url !== undefined && !/^https?:\/\/[^@?#\s]+$/.test(url)) {
    report(context, 'url', 'must be an http address without user, password or query');
  }
  if (apiKeyEnv !== undefined && !process.env[apiKeyEnv]?.trim()) {
    report(context, 'apiKeyEnv', 'must be the name of an environment variable that is set');
  }
}

export function report(context: z.RefinementCtx, option: string, message: string): void {
  context.addIssue({ code: 'custom', path: [option], message });
}

/** How a server is asked: with its key, and without the time limit of fetch. */
export function clientOptions({ apiKeyEnv }: { apiKeyEnv?: string }): JsonClientOptions {
  const apiKey = apiKeyEnv === undefined ? undefined : process.env[apiKeyEnv]?.trim();
  return { apiKey, transport: nodeTransport };
}
