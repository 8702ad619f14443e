import { randomInt } from 'node:crypto';
import { z } from 'zod';
import type { ChatMessage } from '../data/prompts.js';
import type { SequenceRequest } from '../rollout/decode-scheduler.js';
import type { GeneratingModel } from '../rollout/request.js';
import { ApiError } from './api-error.js';
import type { GroupRequest } from './weight-receiver.js';

/** An option of OpenAI's that this server does not have: only the value that leaves it unused is taken. */
const unused = <T extends z.ZodType>(neutral: T) => neutral.nullish();
const off = unused(z.literal(0));
const id = z.int().nonnegative();

const common = {
  model: z.string(),
  n: z.int().min(1).max(256).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.strictObject({ include_usage: z.boolean().optional() }).nullish(),
  temperature: z.number().nonnegative().nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  /** vLLM's; -1 and 0 keep all. */
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  seed: z.int().nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(16)]).nullish(),
  stop_token_ids: z.array(id).nullish(),
  ignore_eos: z.boolean().nullish(),
  logit_bias: z.record(z.string().regex(/^\d+$/, 'must be a token id'), z.number().min(-100).max(100)).nullish(),
  return_token_ids: z.boolean().nullish(),
  user: z.string().nullish(),
  frequency_penalty: off,
  presence_penalty: off,
  repetition_penalty: unused(z.literal(1)),
};

const completionSchema = z.strictObject({
  ...common,
  prompt: z.union([z.string(), z.array(z.string()).min(1), z.array(id).min(1), z.array(z.array(id)).min(1)]),
  max_tokens: z.int().nonnegative().nullish(),
  logprobs: z.int().min(0).max(20).nullish(),
  echo: z.boolean().nullish(),
  best_of: unused(z.literal(1)),
  suffix: unused(z.literal('')),
});

const textPart = z.strictObject({ type: z.literal('text'), text: z.string() });
const message = z.strictObject({
  role: z.string(),
  content: z.union([z.string(), z.array(textPart)]),
  name: z.string().optional(),
});

const chatSchema = z.strictObject({
  ...common,
  messages: z.array(message).min(1),
  max_tokens: z.int().positive().nullish(),
  max_completion_tokens: z.int().positive().nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  add_generation_prompt: z.boolean().nullish(),
  chat_template_kwargs: z.record(z.string(), z.unknown()).nullish(),
  response_format: unused(z.strictObject({ type: z.literal('text') })),
  metadata: z.record(z.string(), z.unknown()).nullish(),
  store: unused(z.literal(false)),
});

const weightsSchema = z
  .strictObject({
    path: z.string().min(1).optional(),
    broadcast: z.string().min(1).optional(),
    version: z.int().nonnegative(),
  })
  .refine(({ path, broadcast }) => (path === undefined) !== (broadcast === undefined), {
    path: ['path'],
    error: 'must be given, or broadcast in its place',
  });

const groupSchema = z.strictObject({
  id: z.string().min(1).max(100),
  engine: z.enum(['gloo', 'nccl']),
  address: z.base64(),
  dtype: z.enum(['f32', 'bf16', 'f16']),
  layout: z.array(z.string()).min(1),
  timeoutSeconds: z
    .number()
    .positive()
    .max(2 ** 31 / 1000),
});

/** A request in our own terms. */
export interface ServedRequest {
  kind: 'chat' | 'text';
  model: string;
  prompts: { ids: Int32Array; text: string | null }[];
  sampling: SequenceRequest;
  /** Give log-probs, with this many alternatives; null: none. */
  logProbs: number | null;
  /** Begin the answer with the prompt, which is scored where log-probs are asked for. */
  echo: boolean;
  /** False: `max_tokens` is 0, nothing is sampled. */
  generates: boolean;
  returnTokenIds: boolean;
  stream: boolean;
  includeUsage: boolean;
}

export function parseCompletion(body: unknown, model: GeneratingModel): ServedRequest {
  const given = check(completionSchema, body);
  const echo = given.echo ?? false;
  const maxTokens = given.max_tokens ?? 16;
  if (maxTokens === 0 && !echo) throw new ApiError(400, 'max_tokens: must be at least 1 without echo', 'max_tokens');
  if (echo && given.stream) throw new ApiError(400, 'echo: is not supported together with stream', 'echo');
  if (echo && (given.logprobs ?? 0) > 0) {
    throw new ApiError(400, 'logprobs: must be 0 with echo, no alternatives are given for a prompt', 'logprobs');
  }
  const { prompt } = given;
  const list = typeof prompt === 'string' || typeof prompt[0] === 'number' ? [prompt] : prompt;
  const prompts = (list as (string | number[])[]).map((one) =>
    typeof one === 'string'
      ? { ids: model.tokenizer.encode(one), text: one }
      : { ids: Int32Array.from(one), text: null },
  );
  return {
    ...shared(given, model, Math.max(1, maxTokens), given.logprobs ?? null),
    kind: 'text',
    prompts,
    echo,
    generates: maxTokens > 0,
  };
}

export function parseChat(body: unknown, model: GeneratingModel): ServedRequest {
  const given = check(chatSchema, body);
  if (given.top_logprobs && !given.logprobs) {
    throw new ApiError(400, 'top_logprobs: needs logprobs', 'top_logprobs');
  }
  const messages = given.messages.map(({ content, ...rest }): ChatMessage => {
    return { ...rest, content: typeof content === 'string' ? content : content.map(({ text }) => text).join('') };
  });
  const { tokenizer, config } = model;
  const text = tokenizer.applyChatTemplate(messages, {
    addGenerationPrompt: given.add_generation_prompt ?? true,
    variables: given.chat_template_kwargs ?? {},
  });
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  const rest = Math.max(1, config.maxPositionEmbeddings - ids.length);
  const maxTokens = given.max_completion_tokens ?? given.max_tokens ?? rest;
  return {
    ...shared(given, model, maxTokens, given.logprobs ? (given.top_logprobs ?? 0) : null),
    kind: 'chat',
    prompts: [{ ids, text }],
    echo: false,
    generates: true,
  };
}

export function parseWeights(body: unknown): z.output<typeof weightsSchema> {
  return check(weightsSchema, body);
}

export function parseGroup(body: unknown): GroupRequest {
  return check(groupSchema, body);
}

type Common = z.output<z.ZodObject<typeof common>>;

function shared(given: Common, model: GeneratingModel, maxNewTokens: number, logProbs: number | null) {
  const { stop } = given;
  const sampling: SequenceRequest = {
    maxNewTokens,
    n: given.n ?? 1,
    temperature: given.temperature ?? 1,
    topP: given.top_p ?? 1,
    topK: Math.max(0, given.top_k ?? 0),
    minP: given.min_p ?? 0,
    seed: given.seed ?? randomInt(2 ** 32),
    stop: typeof stop === 'string' ? [stop] : (stop ?? []),
    stopTokenIds: [...(given.ignore_eos ? [] : model.stopTokenIds), ...(given.stop_token_ids ?? [])],
    logitBias: new Map(Object.entries(given.logit_bias ?? {}).map(([key, bias]) => [Number(key), bias])),
    alternatives: logProbs ?? 0,
  };
  return {
    model: given.model,
    sampling,
    logProbs,
    returnTokenIds: given.return_token_ids ?? false,
    stream: given.stream ?? false,
    includeUsage: given.stream_options?.include_usage ?? false,
  };
}

function check<Schema extends z.ZodType>(schema: Schema, body: unknown): z.output<Schema> {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const unknown = issue.code === 'unrecognized_keys' ? issue.keys[0]! : null;
  const path = [...issue.path, ...(unknown === null ? [] : [unknown])].join('.');
  const problem = unknown === null ? issue.message : 'is not supported by this server';
  throw new ApiError(400, `${path || 'body'}: ${problem}`, path || null);
}
