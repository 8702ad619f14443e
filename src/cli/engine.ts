import { basename } from 'node:path';
import { z } from 'zod';
import type { CausalLM } from '../models/causal-lm.js';
import { AsyncRolloutEngine } from '../rollout/async-engine.js';
import type { RolloutEngine } from '../rollout/engine.js';
import { OpenAIEngine } from '../rollout/openai-engine.js';
import { rolloutServerKinds } from '../rollout/rollout-servers.js';
import type { GRPOConfig } from '../trainer/config.js';
import { ConfigError } from '../trainer/parse-config.js';
import { checkServer, clientOptions, serverShape } from './server-options.js';

/** The server that samples completions in the place of this process. */
export const engineSource = z
  .strictObject({
    kind: z.enum(rolloutServerKinds),
    ...serverShape,
    /** The model's name there. Default: the name of the model's folder. */
    model: z.string().min(1).optional(),
    /** Folder through which the server is given weights, and the same folder as the server sees it. */
    weightsDir: z.string().min(1),
    serverWeightsDir: z.string().min(1).optional(),
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
  .superRefine(checkServer);

export type EngineSource = z.output<typeof engineSource>;

/** Throws a `ConfigError` where the engine and the options of the trainer do not go together. */
export function checkEngine(source: EngineSource | null, { rolloutCorrection }: GRPOConfig): void {
  if (source && source.maxStaleness > 0 && rolloutCorrection === null) {
    throw new ConfigError('config', ['engine.maxStaleness: needs rolloutCorrection, such as token-truncate']);
  }
}

export function openEngine(source: EngineSource, policy: CausalLM, modelFolder: string): RolloutEngine {
  const { weightsDir, serverWeightsDir, maxStaleness, apiKeyEnv, model = basename(modelFolder), ...options } = source;
  const weights = { folder: weightsDir, serverFolder: serverWeightsDir };
  const engine = new OpenAIEngine({ ...options, ...clientOptions({ apiKeyEnv }), model, policy, weights });
  return maxStaleness > 0 ? new AsyncRolloutEngine(engine, { maxStaleness }) : engine;
}
