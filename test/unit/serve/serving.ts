import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { openDevice } from '../../../src/backend/open-device.js';
import { CausalLM } from '../../../src/models/causal-lm.js';
import '../../../src/platform/node.js';
import type { DecodeSchedulerOptions } from '../../../src/rollout/decode-scheduler.js';
import { ServedModel } from '../../../src/serve/served-model.js';
import { ApiServer, type ServerOptions } from '../../../src/serve/server.js';
import { Tokenizer } from '../../../src/text/tokenizer.js';
import { tinyAlphabet, tinyShape } from '../../tiny-model.js';

export const chatTemplate =
  "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

export interface Serving {
  url: string;
  /** The policy that is served. */
  policy: CausalLM;
  model: ServedModel;
  weightsDir: string;
  /** Errors that clients were not told. */
  errors: unknown[];
  close(): Promise<void>;
}

/** Serves a tiny model with a chat template on a free port, and checks in the end that nothing is left over. */
export async function startServing(
  options: ServerOptions & { scheduler?: DecodeSchedulerOptions; seed?: number; context?: number } = {},
): Promise<Serving> {
  const { scheduler, seed = 0, context = 256, ...server } = options;
  const weightsDir = await mkdtemp(join(tmpdir(), 'grpo-weights-'));
  const device = await openDevice('cpu', { matmul: 'builtin', threads: 1 });
  const tokenizer = Tokenizer.fromCharacters(tinyAlphabet, { chatTemplate });
  const policy = CausalLM.create({ ...tinyShape, maxPositionEmbeddings: context }, tokenizer, { device, seed });
  const errors: unknown[] = [];
  const model = new ServedModel(policy, { name: 'tiny', weightsDir, scheduler: { cacheBytes: 2 ** 22, ...scheduler } });
  const api = new ApiServer(model, { port: 0, onError: (error) => errors.push(error), ...server });
  const url = await api.listen();
  const close = async () => {
    await api.close();
    await model.close();
    policy.dispose();
    expect(device.memory().liveTensors).toBe(0);
    device.close();
    await rm(weightsDir, { recursive: true, force: true });
    expect(errors).toEqual([]);
  };
  return { url, policy, model, weightsDir, errors, close };
}
