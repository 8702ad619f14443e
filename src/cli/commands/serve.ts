import { once } from 'node:events';
import { basename, resolve } from 'node:path';
import { GrpoError } from '../../errors.js';
import { ServedModel } from '../../serve/served-model.js';
import { ApiServer, isLoopback } from '../../serve/server.js';
import { WeightReceiver } from '../../serve/weight-receiver.js';
import { Interrupt } from '../interrupt.js';
import { type ModelFlags, readInput, withModel } from '../model.js';

interface ServeFlags extends ModelFlags {
  host: string;
  port: number;
  name?: string;
  weightsDir?: string;
  weightsBroadcast?: boolean | string;
  apiKeyFile?: string;
  maxBatch: number;
  maxQueue: number;
  cacheBytes: number;
  maxBodyBytes: number;
  grace: number;
}

/** Serves a model until SIGINT or SIGTERM, which lets running requests end; the second one ends the process at once. */
export async function serve(flags: ServeFlags): Promise<number> {
  if (!(flags.port >= 0 && flags.port <= 65535)) throw new GrpoError('GRPO_CONFIG', '--port: must be from 0 to 65535');
  const apiKey = await readKey(flags.apiKeyFile);
  const say = (text: string) => process.stderr.write(`${text}\n`);
  const interrupt = new Interrupt(() => say('Ending what runs. Ctrl-C again ends at once.'));
  try {
    return await withModel(flags, async (policy) => {
      const { maxBatch, maxQueue, cacheBytes, weightsBroadcast = false } = flags;
      if (weightsBroadcast !== false) {
        await WeightReceiver.check(policy.device, weightsBroadcast === true ? undefined : weightsBroadcast);
      }
      const model = new ServedModel(policy, {
        name: flags.name ?? basename(resolve(flags.model)),
        weightsDir: flags.weightsDir ?? null,
        weightsBroadcast,
        scheduler: { maxBatch, maxQueue, cacheBytes },
      });
      const { host, port, maxBodyBytes } = flags;
      const onError = (error: unknown) => say(`A request failed: ${error instanceof Error ? error.stack : error}`);
      const server = new ApiServer(model, { host, port, apiKey, maxBodyBytes, onError });
      try {
        const url = await server.listen().catch((error: Error) => {
          throw new GrpoError('GRPO_SERVE', `Cannot listen at ${host}:${port}: ${error.message}`, { cause: error });
        });
        if (apiKey === null && !isLoopback(host)) say('Warning: anybody who can reach this address can use the model.');
        say(`Serving ${model.name} at ${url}/v1 (${policy.device.name})`);
        if (!interrupt.signal.aborted) await once(interrupt.signal, 'abort');
        await server.close(flags.grace * 1000);
      } finally {
        await model.close();
      }
      return 0;
    });
  } finally {
    interrupt.dispose();
  }
}

async function readKey(file: string | undefined): Promise<string | null> {
  const key = file === undefined ? process.env.GRPO_API_KEY : await readInput(file);
  if (key === undefined) return null;
  if (key.trim() === '') throw new GrpoError('GRPO_CONFIG', `${file ?? 'GRPO_API_KEY'}: the API key is empty`);
  return key.trim();
}
