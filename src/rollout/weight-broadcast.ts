import { z } from 'zod';
import { localAddressTowards } from '../distributed/local-address.js';
import { engineFor, openProcessGroup } from '../distributed/open-process-group.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { sendWeights } from '../distributed/weight-transfer.js';
import type { GrpoError } from '../errors.js';
import { HttpError, type JsonClient } from '../http/json-client.js';
import type { Parameters } from '../models/parameters.js';
import type { WeightChannel } from './openai-engine.js';
import { read } from './rollout-servers.js';

export interface WeightBroadcastOptions {
  /** Longest time to meet the server, and for each piece of the weights. Seconds; default 120. */
  timeoutSeconds?: number;
  /**
   * Gloo: the network interface or address by which the server reaches this machine. Default: that by which this machine
   * reaches the server.
   */
  interface?: string;
}

interface Meeting {
  id: string;
  group: ProcessGroup;
}

const groupAnswer = z.object({ address: z.base64() });

/**
 * Gives the weights of a policy to a `grpo serve --weights-broadcast` over a process group of the two: by NCCL between
 * CUDA devices, by Gloo between CPUs. The group is opened at the first time, and anew when it has failed.
 */
export class WeightBroadcast implements WeightChannel {
  readonly #parameters: Parameters;
  readonly #options: WeightBroadcastOptions;
  #meeting: Meeting | null = null;

  constructor({ parameters }: { parameters: Parameters }, options: WeightBroadcastOptions = {}) {
    this.#parameters = parameters;
    this.#options = options;
  }

  async give(client: JsonClient, version: number): Promise<void> {
    const kept = this.#meeting;
    if (kept && (await this.#send(client, kept, version).catch(() => false))) return;
    // The server was started again, say. What fails in a new group is an error.
    await this.#part('the group has failed');
    this.#meeting = await this.#meet(client);
    try {
      await this.#send(client, this.#meeting, version);
    } catch (error) {
      await this.#part('the weights could not be given');
      throw error;
    }
  }

  close(): Promise<void> {
    return this.#part('the trainer has ended');
  }

  async #meet(client: JsonClient): Promise<Meeting> {
    const { timeoutSeconds = 120 } = this.#options;
    const { device, dtype } = this.#parameters;
    const engine = engineFor(device);
    const id = globalThis.crypto.randomUUID();
    const addresses: Record<string, Uint8Array> = {};
    // The server's address is the answer to this one's.
    const store = {
      set: async (key: string, address: Uint8Array) => {
        const path = '/v1/weights/group';
        const layout = this.#parameters.layout();
        const own = { id, engine, address: Buffer.from(address).toString('base64'), dtype, layout, timeoutSeconds };
        const answer = read(groupAnswer, path, await client.post(path, own));
        addresses[key] = address;
        addresses['address/1'] = Buffer.from(answer.address, 'base64');
      },
      get: async (key: string) => addresses[key]!,
    };
    const network = engine === 'gloo' ? await this.#interface(client, timeoutSeconds) : undefined;
    const ranks = { rank: 0, worldSize: 2, localRank: 0 };
    return { id, group: await openProcessGroup({ device, ...ranks, store, timeoutSeconds, interface: network }) };
  }

  async #interface(client: JsonClient, timeoutSeconds: number): Promise<string> {
    if (this.#options.interface !== undefined) return this.#options.interface;
    // The client waits for a server that is just being started.
    await client.get('/v1/weights');
    return localAddressTowards(client.origin, timeoutSeconds).catch((cause: Error) => {
      throw new HttpError(`${client.origin}: ${cause.message}`, 'connection', null, { cause });
    });
  }

  /** Resolves to true when the server has the weights. */
  async #send(client: JsonClient, { id, group }: Meeting, version: number): Promise<true> {
    const failed = new AbortController();
    // Asked once: the broadcasts that belong to it are not repeated either.
    const asked = client.postOnce('/v1/weights', { broadcast: id, version }, failed.signal);
    const sent = sendWeights(group, this.#parameters.flat);
    asked.catch((error: GrpoError) => group.abort(error.message));
    sent.catch((error: GrpoError) => failed.abort(error));
    try {
      await Promise.all([asked, sent]);
      return true;
    } finally {
      await Promise.allSettled([asked, sent]);
    }
  }

  async #part(reason: string): Promise<void> {
    const group = this.#meeting?.group;
    this.#meeting = null;
    group?.abort(reason);
    await group?.close().catch(() => {});
  }
}
