import { z } from 'zod';
import { GrpoError, UnsupportedError } from '../errors.js';
import { HttpError, type JsonClient } from '../http/json-client.js';
import type { Completion } from './engine.js';

/** What is asked of a server for one prompt. */
export interface ServerRequest {
  model: string;
  promptIds: readonly number[];
  n: number;
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  seed: number;
  stop: readonly string[];
  /** All ids that end a completion, and those of them that the model ends with by itself. */
  stopTokenIds: readonly number[];
  ownStopTokenIds: readonly number[];
}

/** A completion as a server tells it; `version` where it tells that too. */
export type ServerCompletion = Omit<Completion, 'version'> & { version?: number | null };

/** How a kind of server is asked for completions, and given new weights. */
export interface RolloutServer {
  complete(client: JsonClient, request: ServerRequest, signal?: AbortSignal): Promise<ServerCompletion[]>;
  /** `folder` is the shared folder as the server sees it, `name` the model folder in it. */
  reload(client: JsonClient, weights: { folder: string; name: string; version: number }): Promise<void>;
}

export const rolloutServerKinds = ['grpo', 'vllm', 'sglang'] as const;
export type RolloutServerKind = (typeof rolloutServerKinds)[number];

const ids = z.array(z.int().nonnegative()).min(1);
const logProbs = z.array(z.number());

const completionsAnswer = z.object({
  choices: z.array(
    z.object({
      index: z.int().nonnegative(),
      text: z.string(),
      finish_reason: z.enum(['stop', 'length']),
      token_ids: ids,
      logprobs: z.object({ token_logprobs: logProbs }),
      weights_version: z.int().nullish(),
    }),
  ),
});

/** `POST /v1/completions` with token ids both ways, as vLLM and `grpo serve` know it. */
async function completeByOpenAI(client: JsonClient, request: ServerRequest, signal?: AbortSignal) {
  const { topK, minP } = request;
  const body = {
    model: request.model,
    prompt: request.promptIds,
    n: request.n,
    max_tokens: request.maxNewTokens,
    temperature: request.temperature,
    top_p: request.topP,
    ...(topK > 0 ? { top_k: topK } : {}),
    ...(minP > 0 ? { min_p: minP } : {}),
    seed: request.seed,
    ...(request.stop.length > 0 ? { stop: request.stop } : {}),
    // The ids that the request names are all that end a completion.
    ignore_eos: true,
    stop_token_ids: request.stopTokenIds,
    logprobs: 0,
    return_token_ids: true,
  };
  const { choices } = read(completionsAnswer, '/v1/completions', await client.post('/v1/completions', body, signal));
  return choices
    .sort((a, b) => a.index - b.index)
    .map(({ text, finish_reason, token_ids, logprobs, weights_version }): ServerCompletion => {
      return toCompletion(text, finish_reason, token_ids, logprobs.token_logprobs, weights_version);
    });
}

const generateAnswer = z.array(
  z.object({
    text: z.string(),
    meta_info: z.object({
      finish_reason: z.object({ type: z.enum(['stop', 'length']) }),
      output_token_logprobs: z.array(z.tuple([z.number(), z.int().nonnegative()], z.unknown())).min(1),
      weight_version: z.string().nullish(),
    }),
  }),
);

const updateAnswer = z.object({ success: z.boolean(), message: z.string().optional() });

export const rolloutServers: Record<RolloutServerKind, RolloutServer> = {
  grpo: {
    complete: completeByOpenAI,
    async reload(client, { name, version }) {
      await client.post('/v1/weights', { path: name, version });
    },
  },

  /** Needs `VLLM_SERVER_DEV_MODE=1`, and `--logprobs-mode processed_logprobs` for temperatures other than 1. */
  vllm: {
    complete: completeByOpenAI,
    async reload(client, { folder, name }) {
      await client.post('/collective_rpc', { method: 'reload_weights', kwargs: { weights_path: `${folder}/${name}` } });
      await client.post('/reset_prefix_cache', {});
    },
  },

  /** The native `/generate`: SGLang's form of the OpenAI API has no token ids. */
  sglang: {
    async complete(client, request, signal) {
      const { stopTokenIds, ownStopTokenIds } = request;
      if (ownStopTokenIds.some((id) => !stopTokenIds.includes(id))) {
        const hint = 'Its servers always end at the ids of the model, so stopTokenIds must hold them.';
        throw new UnsupportedError('stopTokenIds without those of the model', 'a rollout server of kind sglang', hint);
      }
      const params = {
        max_new_tokens: request.maxNewTokens,
        temperature: request.temperature,
        top_p: request.topP,
        top_k: request.topK > 0 ? request.topK : -1,
        min_p: request.minP,
        stop: request.stop,
        stop_token_ids: stopTokenIds,
      };
      // One entry a sample, since samples of one entry would share its seed.
      const samples = Array.from({ length: request.n }, (_, i) => ({ ...params, sampling_seed: request.seed + i }));
      const body = { input_ids: samples.map(() => request.promptIds), sampling_params: samples, return_logprob: true };
      const answer = read(generateAnswer, '/generate', await client.post('/generate', body, signal));
      return answer.map(({ text, meta_info }) => {
        const { finish_reason, output_token_logprobs: tokens, weight_version } = meta_info;
        const version = weight_version && /^\d+$/.test(weight_version) ? Number(weight_version) : null;
        const [values, ids] = [tokens.map(([value]) => value), tokens.map(([, id]) => id)];
        return toCompletion(text, finish_reason.type, ids, values, version);
      });
    },
    async reload(client, { folder, name, version }) {
      const path = '/update_weights_from_disk';
      const body = { model_path: `${folder}/${name}`, weight_version: String(version), flush_cache: true };
      const { success, message } = read(updateAnswer, path, await client.post(path, body));
      if (!success) throw new GrpoError('GRPO_ENGINE', `${path}: the server kept its old weights: ${message ?? ''}`);
    },
  },
};

function toCompletion(
  text: string,
  stopReason: 'stop' | 'length',
  tokens: readonly number[],
  values: readonly number[],
  version?: number | null,
): ServerCompletion {
  if (tokens.length !== values.length) {
    throw new HttpError(`The server gave ${values.length} log-probs for ${tokens.length} tokens`, 'format');
  }
  return { text, stopReason, completionIds: Int32Array.from(tokens), logProbs: Float32Array.from(values), version };
}

/** The answer of `path` in the form that is expected of it. */
export function read<Schema extends z.ZodType>(schema: Schema, path: string, value: unknown): z.output<Schema> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw new HttpError(`${path}: unexpected answer: ${issue.path.join('.')}: ${issue.message}`, 'format');
}
