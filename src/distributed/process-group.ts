import type { CollectiveError } from '../errors.js';
import type { Device, Tensor } from '../tensor.js';

export type ReduceOp = 'sum' | 'max' | 'min';

/** A collective that has been queued. */
export interface PendingCollective {
  /**
   * Makes the device wait: whatever is queued on it afterwards runs when the collective has ended. Operations and reads
   * that touch the tensors of a collective wait for it by themselves, so this is only needed to mark a point in time.
   * Returns at once; calling it again does nothing.
   */
  wait(): void;
}

/** What a group has done so far, as of the collectives that have ended. */
export interface CollectiveStatistics {
  collectives: number;
  /** Bytes that this rank sent to others. */
  bytesSent: number;
  /** Time during which a collective was running, and the part of it for which the device stood waiting. */
  communicationSeconds: number;
  waitSeconds: number;
}

/**
 * The processes of a run, one a device, and how they exchange tensors. Every rank calls the same collectives in the same
 * order, with tensors of the same size and dtype.
 *
 * A collective is queued in call order with the operations of the device: it sees what was queued before it. It then
 * runs on a thread of its own, beside operations queued later that touch none of its tensors. Tensors are contiguous and
 * stay valid until it has ended even when they are disposed of.
 *
 * A failure (a peer that died or hangs, different arguments on different ranks, `abort`) marks the tensors that the
 * collective writes: reading them, or anything computed from them, rejects with a `CollectiveError`. The group is then
 * dead: every later collective fails at once with the same error.
 *
 * Sums are formed in the order of the ranks, element by element, and rounded once to the tensor's dtype (bf16 and f16
 * are added in float32). The bits are the same on all ranks, and depend neither on how a tensor is cut into several
 * collectives nor on whether an all-reduce or a reduce-scatter forms them. (NCCL chooses its own order; there only the
 * ranks agree.)
 */
export interface ProcessGroup {
  readonly rank: number;
  readonly worldSize: number;
  /** Which process of its machine this is; the ordinal of its GPU. */
  readonly localRank: number;
  readonly engine: 'gloo' | 'nccl' | 'single';
  /** Replaces the tensor on every rank by the sum (or maximum, minimum) over the ranks. */
  allReduce(tensor: Tensor, options?: { op?: ReduceOp }): PendingCollective;
  /**
   * input [worldSize * P], output [P]: rank r gets part r of the sum. The output may be part `rank` of the input itself;
   * otherwise the two share no memory. The input is kept.
   */
  reduceScatter(input: Tensor, output: Tensor): PendingCollective;
  /**
   * input [P], output [worldSize * P]: every rank gets the inputs in rank order. The input may be part `rank` of the
   * output itself; otherwise the two share no memory.
   */
  allGather(input: Tensor, output: Tensor): PendingCollective;
  /** Replaces the tensor on every rank by that of rank `root`. */
  broadcast(tensor: Tensor, root: number): PendingCollective;
  /** Gives rank `root` the sum over the ranks in place of its tensor; the others keep theirs. */
  reduce(tensor: Tensor, root: number): PendingCollective;
  /** Resolves when every rank has called it and everything queued before it has run on every rank. */
  barrier(): Promise<void>;
  /** Small values (rewards, metrics) of all ranks, in rank order: what JSON can hold. */
  allGatherValues<T>(value: T): Promise<T[]>;
  /**
   * Ends the collective in progress and all later ones with an error of this text, here at once, on the other ranks as
   * soon as they notice. For a control plane that knows of a failure.
   */
  abort(reason: string): void;
  /** Why the group is dead; null while it is not. */
  readonly failure: CollectiveError | null;
  statistics(): CollectiveStatistics;
  /** Waits for all ranks to call it, then disconnects. After a failure it only disconnects. */
  close(): Promise<void>;
}

/** What the ranks use to find each other: shared by all, for a single opening of a group. */
export interface Store {
  set(key: string, value: Uint8Array): Promise<void>;
  /** Resolves when some rank has set the key; rejects when that takes too long. */
  get(key: string): Promise<Uint8Array>;
}

/** How `openProcessGroup` opens a group. */
export interface ProcessGroupOptions {
  device: Device;
  rank: number;
  worldSize: number;
  localRank: number;
  /** Where the ranks leave their addresses; what is in it must belong to this opening of the group alone. */
  store: Store;
  /** How long a rank waits for the others in one collective, and for all to connect. Default 600. */
  timeoutSeconds?: number;
  /** `nccl` for CUDA devices, `gloo` for the CPU unless given. */
  engine?: 'gloo' | 'nccl';
  /**
   * Gloo: the network interface (`eth0`) or address (`10.0.0.5`) that the other ranks can reach this one by. Default: the
   * address that the machine's host name stands for. NCCL reads NCCL_SOCKET_IFNAME instead.
   */
  interface?: string;
  /** Ends the opening when it is aborted; an open group has `abort`. */
  signal?: AbortSignal;
}
