import type { OperationName, Program, RecordedCall, ReplayStatistics } from './backend/backend.js';
import { DisposedError } from './errors.js';
import type { Device, Memory, Tensor } from './tensor.js';

/**
 * Operations that were remembered and not carried out, by `device.record`. Tensors that were made meanwhile belong to
 * the recording: they keep their memory until it is disposed of.
 */
export class Recording {
  readonly #device: Device;
  readonly #recorder: Recorder;
  #disposed = false;

  /** @internal Use `device.record`. */
  constructor(device: Device, recorder: Recorder) {
    this.#device = device;
    this.#recorder = recorder;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Queues the operations, in order. Throws a `DisposedError` when the memory of a tensor from outside that they use is
   * gone; what fails later marks the tensors that it should have written, as without a recording.
   */
  replay(): void {
    this.#program().replay();
  }

  /** What has become of the replays; those that are still queued do not count. */
  statistics(): ReplayStatistics {
    return this.#program().statistics();
  }

  /** Frees the tensors of the recording once what is queued has run. Calling it again does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#device.releaseRecorder(this.#recorder);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #program(): Program {
    if (this.#disposed || this.#device.closed) throw new DisposedError('A recording');
    for (const [memory, name] of this.#recorder.outside) if (!memory.live) throw new DisposedError(name);
    return this.#recorder.holdings.program!;
  }
}

/** What a recording holds on its device. */
export interface Holdings {
  readonly storages: number[];
  program: Program | null;
}

/** Calls and memory of a recording, while it is made and afterwards. */
export class Recorder {
  readonly calls: RecordedCall[] = [];
  /** Memory from outside that the calls use, kept from the garbage collector, and where it was first used. */
  readonly outside = new Map<Memory, string>();
  readonly holdings: Holdings = { storages: [], program: null };
  readonly #made: Memory[] = [];
  /** By size: what was disposed of again, for later tensors. */
  readonly #idle = new Map<number, number[]>();

  /** Memory for a tensor; `allocate` makes some where none of that size is idle. */
  take(bytes: number, allocate: (bytes: number) => number): Memory {
    let storage = this.#idle.get(bytes)?.pop();
    if (storage === undefined) {
      storage = allocate(bytes);
      this.holdings.storages.push(storage);
    }
    const memory: Memory = { storage, bytes, owners: 0, live: true, recorder: this };
    this.#made.push(memory);
    return memory;
  }

  /** The last tensor over `memory` was disposed of. */
  free(memory: Memory): void {
    if (this.holdings.program) return;
    memory.live = false;
    const idle = this.#idle.get(memory.bytes);
    if (idle) idle.push(memory.storage);
    else this.#idle.set(memory.bytes, [memory.storage]);
  }

  add(operation: OperationName, names: readonly string[], given: readonly (Tensor | null)[], scalars: number[]): void {
    const tensors = given.map((tensor, i) => {
      if (!tensor) return null;
      const { storage, byteOffset, dtype, shape, rowStride, memory } = tensor;
      if (memory.recorder !== this && !this.outside.has(memory)) {
        this.outside.set(memory, `${operation}: ${names[i]}, of shape [${shape.join(',')}], of a recording`);
      }
      return { storage, byteOffset, dtype, shape, rowStride };
    });
    this.calls.push({ operation, tensors, scalars });
  }

  /** The tensors that it made can no longer be used. */
  end(): void {
    for (const memory of this.#made) memory.live = false;
  }
}
