import type { BackendAttempt } from '../errors.js';

/** The addon's functions (native/addon.cc). Private: everything else goes through `NativeBackend`. */
export interface Binding {
  /** How errors are made, and for each operation the bit masks of the tensors that it reads and writes. */
  configure(makeError: (code: string, message: string) => Error, accesses: Uint32Array): void;
  operations(): { name: string; tensors: string[]; scalars: string[] }[];
  /** With an ordinal below 0 devices are only counted. Without a `description` no engine was made. */
  open(kind: string, ordinal: number, options: string, libraries: readonly string[]): Promise<OpenAnswer>;
  allocate(engine: number, bytes: number): number;
  adopt(engine: number, pointer: bigint, bytes: number): number;
  release(engine: number, storage: number): void;
  write(engine: number, storage: number, byteOffset: number, data: ArrayBufferView): void;
  read(engine: number, storage: number, byteOffset: number, bytes: number): Promise<ArrayBuffer>;
  /** The payload holds nine numbers a tensor (storage, byte offset, dtype, rank, shape[4], row stride), then scalars. */
  run(engine: number, operation: number, payload: Float64Array): void;
  synchronize(engine: number): Promise<void>;
  memory(engine: number): { liveBytes: number; reservedBytes: number; peakBytes: number };
  close(engine: number): void;
}

export interface OpenAnswer {
  engine: number;
  /** Lines of `key=value`. */
  description: string;
  deviceCount: number;
  attempts: BackendAttempt[];
}
