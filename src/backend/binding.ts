import type { BackendAttempt } from '../errors.js';
import type { ReplayStatistics } from './backend.js';

/** The addon's functions (native/addon.cc). Private: everything else goes through `NativeBackend`. */
export interface Binding {
  /** How errors are made, and for each operation the bit masks of the tensors that it reads and writes. */
  configure(makeError: (code: string, message: string) => Error, accesses: Uint32Array): void;
  operations(): { name: string; tensors: string[]; scalars: string[] }[];
  /** With an ordinal below 0 devices are only counted. Without a `description` no engine was made. */
  open(kind: string, ordinal: number, options: string, libraries: readonly string[]): Promise<OpenAnswer>;
  allocate(engine: number, bytes: number): number;
  /** Without `keepAlive` the owner knows by itself how long the memory is used. */
  adopt(engine: number, pointer: bigint, bytes: number, stream?: bigint, keepAlive?: object): number;
  release(engine: number, storage: number): void;
  write(engine: number, storage: number, byteOffset: number, data: ArrayBufferView): void;
  read(engine: number, storage: number, byteOffset: number, bytes: number): Promise<ArrayBuffer>;
  /** The payload holds nine numbers a tensor (storage, byte offset, dtype, rank, shape[4], row stride), then scalars. */
  run(engine: number, operation: number, payload: Float64Array): void;
  /** An operation a call, and the payloads of all calls one after the other. Gives the recording's number. */
  record(engine: number, operations: Uint32Array, payload: Float64Array): number;
  replay(engine: number, recording: number): void;
  releaseRecording(engine: number, recording: number): void;
  recordingStatistics(engine: number, recording: number): ReplayStatistics;
  synchronize(engine: number, stream?: bigint): Promise<void>;
  memory(engine: number): { liveBytes: number; reservedBytes: number; peakBytes: number };
  close(engine: number): void;

  /** Without an `address` no group was made. */
  openGroup(
    engine: number,
    kind: string,
    rank: number,
    worldSize: number,
    timeoutSeconds: number,
    networkInterface: string,
    libraries: readonly string[],
  ): Promise<{ group: number; address?: Uint8Array; attempts: BackendAttempt[] }>;
  /** The addresses of all ranks, in rank order. */
  connectGroup(group: number, addresses: readonly Uint8Array[]): Promise<void>;
  /**
   * Kinds: 0 allReduce, 1 reduceScatter, 2 allGather, 3 broadcast, 4 reduce; ops: 0 sum, 1 max, 2 min. `count`: elements of the
   * smaller tensor. The payload holds the tensors that are read and written, as for `run`. Gives the collective's number.
   */
  startCollective(group: number, kind: number, op: number, root: number, count: number, payload: Float64Array): number;
  waitCollective(group: number, collective: number): void;
  abortGroup(group: number, reason: string): void;
  groupFailure(group: number): Error | null;
  groupStatistics(group: number): {
    collectives: number;
    bytesSent: number;
    communicationSeconds: number;
    waitSeconds: number;
  };
  closeGroup(group: number): Promise<void>;
  /** After `closeGroup` has settled. */
  releaseGroup(group: number): void;
  /** Closes all devices and groups and waits for their threads: the process is ending. */
  stop(): void;
}

export interface OpenAnswer {
  engine: number;
  /** Lines of `key=value`. */
  description: string;
  deviceCount: number;
  attempts: BackendAttempt[];
}
