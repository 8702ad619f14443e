import { openProcessGroup } from '../distributed/open-process-group.js';
import type { ProcessGroup, ProcessGroupOptions } from '../distributed/process-group.js';
import { receiveWeights } from '../distributed/weight-transfer.js';
import { CollectiveError } from '../errors.js';
import type { WeightDType } from '../models/causal-lm.js';
import type { Parameters } from '../models/parameters.js';
import type { Device, Tensor } from '../tensor.js';
import { ApiError } from './api-error.js';

/** How a trainer, rank 0, asks this server to form a group with it. */
export interface GroupRequest {
  id: string;
  engine: 'gloo' | 'nccl';
  /** Base64. */
  address: string;
  /** Of the trainer's weights. */
  dtype: WeightDType;
  layout: readonly string[];
  timeoutSeconds: number;
}

/** A group of a trainer and this server. */
interface Meeting {
  request: GroupRequest;
  /** This server's address, as soon as it is known. */
  address: Promise<Uint8Array>;
  group: Promise<ProcessGroup>;
  /** Ends the opening of the group. */
  opening: AbortController;
}

/** The server's side of `WeightBroadcast`: one group at a time, which stays open until a trainer asks for another. */
export class WeightReceiver {
  readonly #parameters: Parameters;
  readonly #interface: string | undefined;
  #meeting: Meeting | null = null;
  #parting: Promise<void> = Promise.resolve();

  /** `network`: the interface or address by which trainers reach this machine. Default: that at which they ask. */
  constructor(parameters: Parameters, network?: string) {
    this.#parameters = parameters;
    this.#interface = network;
  }

  /** Throws what would keep trainers from being met: no Gloo or NCCL, no such interface. */
  static async check(device: Device, network?: string): Promise<void> {
    const addresses = new Map<string, Uint8Array>();
    const store: ProcessGroupOptions['store'] = {
      set: async (key, address) => void addresses.set(key, address),
      get: async (key) => addresses.get(key)!,
    };
    const alone = { rank: 0, worldSize: 1, localRank: 0, timeoutSeconds: 30 };
    await (await openProcessGroup({ device, ...alone, store, interface: network ?? '127.0.0.1' })).close();
  }

  /**
   * Begins to meet a trainer, whose request came to `localAddress`, and gives the address by which it meets this server.
   * Ends the group with the trainer before. Asked twice for the same group, it answers the same.
   */
  meet(request: GroupRequest, localAddress: string): Promise<Uint8Array> {
    if (this.#meeting?.request.id === request.id) return this.#meeting.address;
    this.#parameters.requireLayout('layout', request.layout);
    this.#part(this.#meeting, 'another group was asked for');
    let tell: (address: Uint8Array) => void = () => {};
    const own = new Promise<Uint8Array>((resolve) => {
      tell = resolve;
    });
    const opening = new AbortController();
    const { engine, timeoutSeconds } = request;
    const group = openProcessGroup({
      device: this.#parameters.device,
      engine,
      rank: 1,
      worldSize: 2,
      localRank: 0,
      store: {
        set: async (_, address) => tell(address),
        get: async (key) => (key === 'address/0' ? Buffer.from(request.address, 'base64') : own),
      },
      timeoutSeconds,
      interface: this.#interface ?? localAddress,
      signal: opening.signal,
    });
    const address = Promise.race([own, group.then(() => own)]);
    this.#meeting = { request, address, group, opening };
    return address;
  }

  /** The weights that the trainer of group `id` sends, in its dtype. A failure, or an abort of `signal`, ends the group. */
  async receive(id: string, signal: AbortSignal): Promise<Tensor> {
    const meeting = this.#meeting;
    if (meeting?.request.id !== id) throw new ApiError(409, `broadcast: no group ${id} is open here`, 'broadcast');
    const abort = () => this.#part(meeting, (signal.reason as Error).message);
    signal.addEventListener('abort', abort);
    try {
      signal.throwIfAborted();
      const { count, device } = this.#parameters;
      return await receiveWeights(await meeting.group, device, count, meeting.request.dtype);
    } catch (error) {
      this.#part(meeting, 'the weights did not arrive');
      if (!(error instanceof CollectiveError)) throw error;
      throw new ApiError(
        409,
        `broadcast: the weights did not arrive, the old ones stay: ${error.message}`,
        'broadcast',
      );
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  close(): Promise<void> {
    this.#part(this.#meeting, 'the server has ended');
    return this.#parting;
  }

  #part(meeting: Meeting | null, reason: string): void {
    if (!meeting) return;
    if (this.#meeting === meeting) this.#meeting = null;
    meeting.opening.abort(new Error(reason));
    const parted = meeting.group.then(
      (group) => {
        group.abort(reason);
        return group.close();
      },
      () => {},
    );
    this.#parting = Promise.allSettled([this.#parting, parted]).then(() => {});
  }
}
