import type { DeviceMemory } from '../backend.js';
import { inErrorScopes } from './error-scopes.js';
import { bufferUsage } from './usage.js';

/** Memory of one tensor and the views over it. */
export interface Allocation {
  /** Unlike the buffer, never the same for two allocations. */
  readonly storage: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  /** Somebody else's buffer: never reused, never destroyed. */
  readonly adopted: boolean;
}

/** What the owner of buffers does about them. */
export interface BufferEvents {
  /** A buffer was made for a tensor; `failure` is the error that making it may cause. */
  made(storage: number, bytes: number, failure: Promise<GPUError | null>): void;
  /** Whatever was recorded to use it must be submitted first. */
  beforeDestroy(buffer: GPUBuffer): void;
}

const smallest = 256;
/** Idle memory that is kept for the next tensors. */
const keptBytes = 256 * 2 ** 20;

/** The buffers of a device. One that is released is used again for a tensor of about its size. */
export class Buffers {
  readonly #device: GPUDevice;
  readonly #events: BufferEvents;
  /** Those that could not be made: nothing may use them. */
  readonly #broken = new WeakSet<GPUBuffer>();
  readonly #allocations = new Map<number, Allocation>();
  readonly #idle = new Map<number, GPUBuffer[]>();
  #last = 0;
  #liveBytes = 0;
  #peakBytes = 0;
  #bufferBytes = 0;
  #idleBytes = 0;

  constructor(device: GPUDevice, events: BufferEvents) {
    this.#device = device;
    this.#events = events;
  }

  get(storage: number): Allocation | undefined {
    return this.#allocations.get(storage);
  }

  allocate(bytes: number): number {
    const storage = ++this.#last;
    const size = sizeClass(bytes);
    const buffer = this.#take(size) ?? this.#create(storage, size);
    this.#allocations.set(storage, { storage, buffer, bytes, adopted: false });
    this.#liveBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
    return storage;
  }

  adopt(buffer: GPUBuffer, bytes: number): number {
    const storage = ++this.#last;
    this.#allocations.set(storage, { storage, buffer, bytes, adopted: true });
    return storage;
  }

  release(storage: number): void {
    const allocation = this.#allocations.get(storage);
    if (!allocation) return;
    this.#allocations.delete(storage);
    if (allocation.adopted) return;
    this.#liveBytes -= allocation.bytes;
    const { buffer } = allocation;
    if (this.#idleBytes + buffer.size > keptBytes) {
      this.#bufferBytes -= buffer.size;
      this.#events.beforeDestroy(buffer);
      buffer.destroy();
      return;
    }
    const same = this.#idle.get(buffer.size);
    if (same) same.push(buffer);
    else this.#idle.set(buffer.size, [buffer]);
    this.#idleBytes += buffer.size;
  }

  memory(): DeviceMemory {
    return { liveBytes: this.#liveBytes, reservedBytes: this.#bufferBytes, peakBytes: this.#peakBytes };
  }

  close(): void {
    for (const { buffer, adopted } of this.#allocations.values()) if (!adopted) buffer.destroy();
    for (const buffers of this.#idle.values()) for (const buffer of buffers) buffer.destroy();
    this.#allocations.clear();
    this.#idle.clear();
    this.#liveBytes = this.#idleBytes = this.#bufferBytes = 0;
  }

  /** The live allocations, largest first. */
  largest(count: number): number[] {
    return [...this.#allocations.values()]
      .map(({ bytes }) => bytes)
      .sort((a, b) => b - a)
      .slice(0, count);
  }

  #take(size: number): GPUBuffer | undefined {
    const idle = this.#idle.get(size) ?? [];
    for (let buffer = idle.pop(); buffer; buffer = idle.pop()) {
      this.#idleBytes -= size;
      if (!this.#broken.has(buffer)) return buffer;
      this.#bufferBytes -= size;
    }
    return undefined;
  }

  #create(storage: number, size: number): GPUBuffer {
    const { STORAGE, COPY_SRC, COPY_DST } = bufferUsage;
    const { result: buffer, error } = inErrorScopes(this.#device, () =>
      this.#device.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST }),
    );
    const failure = error.then((found) => {
      if (found) this.#broken.add(buffer);
      return found;
    });
    this.#events.made(storage, size, failure);
    this.#bufferBytes += size;
    return buffer;
  }
}

/** Sizes of buffers: eight between one power of two and the next, so that released ones fit again. */
function sizeClass(bytes: number): number {
  const least = Math.max(bytes, smallest);
  const step = Math.max(smallest, 2 ** (Math.floor(Math.log2(least)) - 3));
  return Math.ceil(least / step) * step;
}
