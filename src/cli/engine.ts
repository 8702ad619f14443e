import { basename } from 'node:path';
import { z } from 'zod';
import type { CausalLM } from '../models/causal-lm.js';
import { AsyncRolloutEngine } from '../rollout/async-engine.js';
import type { RolloutEngine } from '../rollout/engine.js';
import { OpenAIEngine } from '../rollout/openai-engine.js';
import { rolloutServerKinds } from '../rollout/rollout-servers.js';
import { WeightBroadcast } from '../rollout/weight-broadcast.js';
import type { GRPOConfig } from '../trainer/config.js';
import { ConfigError } from '../trainer/parse-config.js';
import { checkServer, clientOptions, report, serverShape } from './server-options.js';

/** The server that samples completions in the place of this process. */
export const engineSource = z
  .strictObject({
    kind: z.enum(rolloutServerKinds),
    ...serverShape,
    /** The model's name there. Default: the name of the model's folder. */
    model: z.string().min(1).optional(),
    /** Folder through which the server is given weights, and the same folder as the server sees it. */
    weightsDir: z.string().min(1).optional(),
    serverWeightsDir: z.string().min(1).optional(),
    /** In the place of a folder: over a process group of this program and the server. */
    weights: z.literal('broadcast').optional(),
    /** Updates that completions may lag behind; 0: sampling and updates take turns. */
    maxStaleness: z.int().nonnegative().default(0),
    concurrency: z.int().positive().optional(),
    timeoutMs: z
      .number()
      .positive()
      .max(2 ** 31 - 1)
      .optional(),
    retries: z.int().nonnegative().optional(),
  })
  .superRefine(checkServer)
  .superRefine(checkWeights);

interface GivenWeights {
  kind: string;
  weightsDir?: string;
  serverWeightsDir?: string;
  weights?: 'broadcast';
}

function checkWeights({ kind, weightsDir, serverWeightsDir, weights }: GivenWeights, context: z.RefinementCtx): void {
  if (weights === undefined) {
    if (weightsDir === undefined) report(context, 'weightsDir', 'must be given, or weights: broadcast');
    return;
  }
  if (kind !== 'grpo') report(context, 'weights', `broadcast is for kind grpo; ${kind} takes weights by weightsDir`);
  const folder = weightsDir !== undefined ? 'weightsDir' : 'serverWeightsDir';
  if ((weightsDir ?? serverWeightsDir) !== undefined) report(context, folder, 'is idle with weights: broadcast');
}

export type EngineSource = z.output<typeof engineSource>;

/** Throws a `ConfigError` where the engine and the options of the trainer do not go together. */
export function checkEngine(source: EngineSource | null, { rolloutCorrection }: GRPOConfig): void {
  if (source && source.maxStaleness > 0 && rolloutCorrection === null) {
    throw new ConfigError('config', ['engine.maxStaleness: needs rolloutCorrection, such as token-truncate']);
  }
}

/** `network`: the interface or address by which servers reach this machine; null: that by which it reaches them. */
export function openEngine(
  { weightsDir, serverWeightsDir, weights: by, maxStaleness, apiKeyEnv, ...source }: EngineSource,
  policy: CausalLM,
  modelFolder: string,
  network: string | null,
): RolloutEngine {
  const { model = basename(modelFolder), timeoutMs } = source;
  const timeoutSeconds = timeoutMs === undefined ? undefined : timeoutMs / 1000;
  const weights =
    by === 'broadcast'
      ? new WeightBroadcast(policy, { timeoutSeconds, interface: network ?? undefined })
      : { folder: weightsDir!, serverFolder: serverWeightsDir };
  const engine = new OpenAIEngine({ ...source, ...clientOptions({ apiKeyEnv }), model, policy, weights });
  return maxStaleness > 0 ? new AsyncRolloutEngine(engine, { maxStaleness }) : engine;
}
