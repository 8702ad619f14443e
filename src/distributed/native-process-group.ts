import type { Binding } from '../backend/binding.js';
import { tensorFields, writeTensor } from '../backend/native.js';
import { type CollectiveError, DisposedError, InvalidArgumentError } from '../errors.js';
import type { Device, Tensor } from '../tensor.js';
import { type CollectiveName, checkCollective } from './check-collective.js';
import type { CollectiveStatistics, PendingCollective, ProcessGroup, ReduceOp } from './process-group.js';

const kinds: Record<CollectiveName, number> = { allReduce: 0, reduceScatter: 1, allGather: 2, broadcast: 3, reduce: 4 };
const ops: Record<ReduceOp, number> = { sum: 0, max: 1, min: 2 };

/** What a group is, apart from the device and the addon. */
export interface GroupIdentity {
  rank: number;
  worldSize: number;
  localRank: number;
  engine: 'gloo' | 'nccl';
}

/** A group that the addon connects: its collectives run on a thread beside the device's. */
export class NativeProcessGroup implements ProcessGroup {
  readonly rank: number;
  readonly worldSize: number;
  readonly localRank: number;
  readonly engine: 'gloo' | 'nccl';
  readonly #device: Device;
  readonly #binding: Binding;
  readonly #group: number;
  readonly #payload = new Float64Array(2 * tensorFields);
  #closing: Promise<void> | null = null;
  /** What is known once the addon has forgotten the group. */
  #last: { failure: CollectiveError | null; statistics: CollectiveStatistics } | null = null;

  constructor(device: Device, binding: Binding, group: number, identity: GroupIdentity) {
    this.#device = device;
    this.#binding = binding;
    this.#group = group;
    this.rank = identity.rank;
    this.worldSize = identity.worldSize;
    this.localRank = identity.localRank;
    this.engine = identity.engine;
  }

  allReduce(tensor: Tensor, { op = 'sum' }: { op?: ReduceOp } = {}): PendingCollective {
    if (!Object.hasOwn(ops, op)) throw new InvalidArgumentError('allReduce: op', Object.keys(ops).join(', '), op);
    return this.#start('allReduce', tensor, tensor, op);
  }

  reduceScatter(input: Tensor, output: Tensor): PendingCollective {
    return this.#start('reduceScatter', input, output);
  }

  allGather(input: Tensor, output: Tensor): PendingCollective {
    return this.#start('allGather', input, output);
  }

  broadcast(tensor: Tensor, root: number): PendingCollective {
    return this.#rooted('broadcast', tensor, root);
  }

  reduce(tensor: Tensor, root: number): PendingCollective {
    return this.#rooted('reduce', tensor, root);
  }

  async barrier(): Promise<void> {
    const token = this.#device.zeros([1], 'i32');
    try {
      this.allReduce(token);
      await token.read();
    } finally {
      token.dispose();
    }
  }

  async allGatherValues<T>(value: T): Promise<T[]> {
    const bytes = new TextEncoder().encode(JSON.stringify(value) ?? 'null');
    const lengths = await this.#gather(Int32Array.of(bytes.length), 1);
    const words = Math.ceil(Math.max(...lengths) / 4);
    const padded = new Int32Array(words);
    new Uint8Array(padded.buffer).set(bytes);
    const all = new Uint8Array((await this.#gather(padded, words)).buffer);
    return Array.from(lengths, (length, rank) => {
      const begin = rank * words * 4;
      return JSON.parse(new TextDecoder().decode(all.subarray(begin, begin + length))) as T;
    });
  }

  abort(reason: string): void {
    if (!this.#last) this.#binding.abortGroup(this.#group, reason);
  }

  get failure(): CollectiveError | null {
    return this.#last ? this.#last.failure : (this.#binding.groupFailure(this.#group) as CollectiveError | null);
  }

  statistics(): CollectiveStatistics {
    return this.#last ? this.#last.statistics : this.#binding.groupStatistics(this.#group);
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // Collectives reach the group when the device comes to them.
    if (!this.#device.closed) await this.#device.synchronize();
    let { failure } = this;
    try {
      await this.#binding.closeGroup(this.#group);
    } catch (error) {
      failure ??= error as CollectiveError;
      throw error;
    } finally {
      this.#last = { failure, statistics: this.statistics() };
      this.#binding.releaseGroup(this.#group);
    }
  }

  #rooted(name: 'broadcast' | 'reduce', tensor: Tensor, root: number): PendingCollective {
    if (!Number.isInteger(root) || root < 0 || root >= this.worldSize) {
      throw new InvalidArgumentError(`${name}: root`, `a rank below ${this.worldSize}`, root);
    }
    return this.#start(name, tensor, tensor, 'sum', root);
  }

  #start(name: CollectiveName, input: Tensor, output: Tensor, op: ReduceOp = 'sum', root = 0): PendingCollective {
    if (this.#closing) throw new DisposedError('A process group');
    checkCollective(name, input, output, this.worldSize, this.#device);
    writeTensor(this.#payload, writeTensor(this.#payload, 0, input), output);
    const count = Math.min(input.size, output.size);
    const collective = this.#binding.startCollective(this.#group, kinds[name], ops[op], root, count, this.#payload);
    return {
      wait: () => {
        if (!this.#last && !this.#device.closed) this.#binding.waitCollective(this.#group, collective);
      },
    };
  }

  /** One value, or as many, of each rank, in rank order. */
  async #gather(values: Int32Array, count: number): Promise<Int32Array> {
    const input = this.#device.tensor(values, [count], 'i32');
    const output = this.#device.empty([this.worldSize * count], 'i32');
    try {
      this.allGather(input, output);
      return (await output.read()) as Int32Array;
    } finally {
      input.dispose();
      output.dispose();
    }
  }
}
