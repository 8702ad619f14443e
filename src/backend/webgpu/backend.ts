import {
  DeviceLostError,
  DisposedError,
  GrpoError,
  KernelError,
  OutOfMemoryError,
  UnsupportedError,
} from '../../errors.js';
import {
  type Backend,
  bytesPerElement,
  type DeviceMemory,
  type OperationName,
  operations,
  type Program,
  type RecordedCall,
  type TensorView,
} from '../backend.js';
import { parsedOperations } from '../check-arguments.js';
import { type Abilities, leastAbilities } from './abilities.js';
import { Buffers } from './buffers.js';
import { CommandQueue } from './command-queue.js';
import { inErrorScopes } from './error-scopes.js';
import { Doubt, FaultPages, MemoryDoubt } from './faults.js';
import type { Dispatch, Fault, Kernels } from './operations/dispatch.js';
import { webgpuOperations } from './operations/list.js';
import { type BindingLimits, planBindings, reportsFaults } from './shader.js';
import { bufferUsage, mapModeRead } from './usage.js';

export interface WebGpuOptions {
  /** The caller keeps the device: closing ours leaves it alone. */
  shared?: boolean;
  /** Default: the least. */
  abilities?: Abilities;
}

/** What the operation in progress adds to the doubts about its outputs, and its temporary tensors. */
interface Running {
  operation: OperationName;
  doubts: Set<Doubt>;
  scratch: number[];
}

/** A device that is driven through the WebGPU API, in a browser or by Dawn in Node. */
export class WebGpuBackend implements Backend, Kernels {
  readonly kind = 'webgpu';
  readonly name: string;
  readonly details: Readonly<Record<string, string>>;
  readonly gpuDevice: GPUDevice;
  readonly #shared: boolean;
  readonly #buffers: Buffers;
  readonly #queue: CommandQueue;
  readonly #faults: FaultPages;
  readonly #bindings: BindingLimits;
  /** By storage: why its content may not be what it should. */
  readonly #doubts = new Map<number, Set<Doubt>>();
  readonly #unsettled = new Set<Promise<unknown>>();
  readonly #staging: GPUBuffer[] = [];
  #running: Running | null = null;
  #lost: Error | null = null;
  #closed = false;

  constructor(device: GPUDevice, name: string, details: Record<string, string>, options: WebGpuOptions = {}) {
    this.gpuDevice = device;
    this.name = name;
    this.details = details;
    this.#shared = options.shared ?? false;
    const { minStorageBufferOffsetAlignment: alignment, maxStorageBufferBindingSize } = device.limits;
    this.#bindings = { alignment, pageBytes: Math.floor(maxStorageBufferBindingSize / alignment) * alignment };
    this.#buffers = new Buffers(device, {
      made: (storage, bytes, failure) => this.#watchAllocation(storage, bytes, failure),
      beforeDestroy: (buffer) => this.#queue.submitUsesOf(buffer),
    });
    const { abilities = leastAbilities } = options;
    this.#queue = new CommandQueue(device, abilities, (submitted) => this.#watch(submitted));
    this.#faults = new FaultPages(device, (what, calls) => this.#queue.scoped(what, calls));
    void device.lost.then(({ message }) => {
      if (!this.#closed) this.#lost = this.#deviceLost(message);
    });
  }

  // ---- memory -------------------------------------------------------------------------------------------------------

  allocate(bytes: number): number {
    const { maxBufferSize } = this.gpuDevice.limits;
    if (bytes <= maxBufferSize) return this.#buffers.allocate(bytes);
    const storage = this.#buffers.allocate(0);
    const message = `No memory on webgpu for ${bytes} bytes: the limit maxBufferSize is ${maxBufferSize}`;
    this.#doubts.set(storage, new Set([new MemoryDoubt(new OutOfMemoryError(message))]));
    return storage;
  }

  adoptBuffer(buffer: GPUBuffer, bytes: number): number {
    return this.#buffers.adopt(buffer, bytes);
  }

  release(storage: number): void {
    this.#buffers.release(storage);
    this.#doubts.delete(storage);
  }

  write(storage: number, byteOffset: number, data: ArrayBufferView): void {
    if (data.byteLength === 0 || this.#lost || this.#failureOf(storage)) return;
    const { buffer, bytes } = this.#buffers.get(storage)!;
    if (byteOffset % 4 !== 0) {
      this.#writeUnaligned(storage, byteOffset, data);
      return;
    }
    this.#queue.write(buffer, byteOffset, data);
    if (data.byteLength === bytes) this.#doubts.set(storage, new Set(this.#memoryDoubts(storage)));
  }

  async read(storage: number, byteOffset: number, bytes: number): Promise<ArrayBuffer> {
    const doubts = [...(this.#doubts.get(storage) ?? [])];
    this.#throwIfUnusable(doubts);
    if (bytes === 0) return new ArrayBuffer(0);
    const { buffer } = this.#buffers.get(storage)!;
    const begin = Math.floor(byteOffset / 4) * 4;
    const length = Math.ceil((byteOffset + bytes - begin) / 4) * 4;
    this.#queue.flush();
    const faultBytes = FaultPages.bytesFor(doubts);
    const counts = this.#faults.counts();
    const { result: staging, error } = inErrorScopes(this.gpuDevice, () => {
      const staging = this.#takeStaging(faultBytes + length);
      const encoder = this.gpuDevice.createCommandEncoder();
      FaultPages.copy(doubts, encoder, staging, 0);
      encoder.copyBufferToBuffer(buffer, begin, staging, faultBytes, length);
      this.gpuDevice.queue.submit([encoder.finish()]);
      return staging;
    });
    // A buffer that could not be made may have spoilt what was queued: its error is the one to tell.
    await Promise.all(this.#unsettled);
    try {
      const refused = await error;
      if (refused) throw new KernelError(`WebGPU refused to read ${bytes} bytes: ${refused.message}`);
      await staging.mapAsync(mapModeRead, 0, faultBytes + length);
    } catch (error) {
      staging.destroy();
      this.#throwIfUnusable(doubts);
      throw error instanceof KernelError ? error : this.#deviceLost((error as Error).message);
    }
    const mapped = staging.getMappedRange(0, faultBytes + length);
    const out = mapped.slice(faultBytes + byteOffset - begin, faultBytes + byteOffset - begin + bytes);
    this.#faults.settle(doubts, counts, new Int32Array(mapped.slice(0, faultBytes)));
    staging.unmap();
    this.#returnStaging(staging);
    this.#throwIfUnusable(doubts);
    return out;
  }

  memory(): DeviceMemory {
    return this.#buffers.memory();
  }

  async synchronize(): Promise<void> {
    this.#throwIfUnusable([]);
    this.#queue.flush();
    await this.gpuDevice.queue.onSubmittedWorkDone();
    await Promise.all(this.#unsettled);
    this.#throwIfUnusable([]);
  }

  close(): void {
    if (this.#closed) return;
    this.#queue.flush();
    this.#closed = true;
    this.#buffers.close();
    this.#faults.close();
    this.#queue.close();
    for (const staging of this.#staging) staging.destroy();
    if (!this.#shared) this.gpuDevice.destroy();
  }

  // ---- operations ---------------------------------------------------------------------------------------------------

  run(operation: OperationName, given: readonly (TensorView | null)[], scalars: readonly number[]): void {
    const tensors = given.map(plainView);
    const outer = this.#running;
    const running: Running = { operation, doubts: new Set(), scratch: [] };
    this.#running = running;
    const { tensors: specs } = parsedOperations[operation];
    try {
      for (const [i, { reads }] of specs.entries()) {
        const tensor = tensors[i];
        if (!tensor) continue;
        // Memory that was never made cannot be written either.
        const relevant = reads ? this.#openDoubts(tensor.storage) : [];
        for (const doubt of relevant) running.doubts.add(doubt);
        const failure = this.#failureOf(tensor.storage, !reads);
        if (failure) throw failure;
      }
      if (this.#lost) throw this.#lost;
      webgpuOperations[operation](this, argumentsOf(operation, tensors, scalars));
      running.doubts.add(this.#queue.batchDoubt);
    } catch (error) {
      if (!(error instanceof GrpoError)) throw error;
      running.doubts.add(new Doubt(error));
    } finally {
      this.#running = outer;
      for (const storage of running.scratch) this.release(storage);
    }
    for (const [i, { reads, writes }] of specs.entries()) {
      const tensor = tensors[i];
      if (tensor && writes) this.#mark(tensor, running.doubts, reads);
    }
    if (outer) for (const doubt of running.doubts) outer.doubts.add(doubt);
  }

  record(calls: readonly RecordedCall[]): Program {
    let replays = 0;
    return {
      replay: () => {
        replays++;
        for (const { operation, tensors, scalars } of calls) this.run(operation, tensors, scalars);
      },
      release: () => {},
      statistics: () => ({
        replays,
        launches: 0,
        captures: 0,
        refusal: 'WebGPU has no graphs: its calls run one by one',
      }),
    };
  }

  dispatch(dispatch: Dispatch): void {
    if (dispatch.workgroups === 0) return;
    const plan = planBindings(dispatch, this.#bindings);
    const { maxStorageBuffersPerShaderStage: most } = this.gpuDevice.limits;
    const operation = this.#running?.operation ?? dispatch.sources.at(-1)!;
    const faults = reportsFaults(dispatch) ? this.#faults.current! : null;
    const pages = plan.bound.reduce((count, { pages }) => count + pages.length, 0);
    if (pages + (faults ? 1 : 0) > most) {
      const bytes = plan.bound.map(({ begin, end }) => end - begin).join(', ');
      throw new UnsupportedError(
        `${operation}: tensors of ${bytes} bytes, in bindings of maxStorageBufferBindingSize ${this.#bindings.pageBytes}, exceed the limit maxStorageBuffersPerShaderStage of ${most}`,
      );
    }
    const buffers = plan.bound.map(({ storage }) => this.#buffers.get(storage)!.buffer);
    this.#queue.dispatch(operation, dispatch, plan, buffers, faults);
  }

  scratch(shape: readonly number[], dtype: TensorView['dtype']): TensorView {
    const storage = this.allocate(shape.reduce((size, length) => size * length, bytesPerElement[dtype]));
    this.#running!.scratch.push(storage);
    const failure = this.#failureOf(storage);
    if (failure) throw failure;
    return { storage, byteOffset: 0, dtype, shape, rowStride: shape.at(-1) ?? 1 };
  }

  faultSlot(message: (fault: Fault) => string): number {
    const { doubt, slot } = this.#faults.open((fault) => new KernelError(message(fault)));
    this.#running!.doubts.add(doubt);
    return slot;
  }

  /** Most bytes that one binding may cover. */
  get bindingBytes(): number {
    return this.#bindings.pageBytes - this.#bindings.alignment;
  }

  // ---- what may have gone wrong -------------------------------------------------------------------------------------

  #openDoubts(storage: number): Doubt[] {
    const doubts = this.#doubts.get(storage);
    if (!doubts) return [];
    for (const doubt of doubts) if (doubt.error === null) doubts.delete(doubt);
    return [...doubts];
  }

  #memoryDoubts(storage: number): Doubt[] {
    return this.#openDoubts(storage).filter((doubt) => doubt instanceof MemoryDoubt);
  }

  /** Why a tensor cannot be used, as far as is known. */
  #failureOf(storage: number, onlyMemory = false): Error | undefined {
    const doubts = onlyMemory ? this.#memoryDoubts(storage) : this.#openDoubts(storage);
    return doubts.find(({ error }) => error)?.error ?? undefined;
  }

  #mark(tensor: TensorView, doubts: ReadonlySet<Doubt>, keepsContent: boolean): void {
    const { bytes } = this.#buffers.get(tensor.storage)!;
    const size = tensor.shape.reduce((product, length) => product * length, bytesPerElement[tensor.dtype]);
    const whole = size === bytes && !keepsContent;
    const before = whole ? this.#memoryDoubts(tensor.storage) : this.#openDoubts(tensor.storage);
    this.#doubts.set(tensor.storage, new Set([...before, ...doubts]));
  }

  #throwIfUnusable(doubts: readonly Doubt[]): void {
    if (this.#closed) throw new DisposedError('A device with work in progress');
    if (this.#lost) throw this.#lost;
    for (const { error } of doubts) if (error) throw error;
  }

  #watchAllocation(storage: number, bytes: number, failure: Promise<GPUError | null>): void {
    const doubt = new MemoryDoubt();
    this.#doubts.set(storage, new Set([doubt]));
    this.#watch(
      failure.then((error) => {
        doubt.error = error && new OutOfMemoryError(this.#outOfMemory(bytes, error.message));
      }),
    );
  }

  #outOfMemory(bytes: number, message: string): string {
    const { liveBytes } = this.memory();
    const largest = this.#buffers.largest(5).join(', ');
    return `No memory on webgpu for ${bytes} bytes; ${liveBytes} bytes are live, the largest of ${largest}: ${message}`;
  }

  #watch(promise: Promise<unknown>): void {
    const watched = promise
      .catch(() => {}) // a device that is gone says so elsewhere
      .finally(() => this.#unsettled.delete(watched));
    this.#unsettled.add(watched);
  }

  #deviceLost(message: string): DeviceLostError {
    return new DeviceLostError(`The WebGPU device was lost; submitted last was ${this.#queue.lastBatch}: ${message}`);
  }

  // ---- staging ------------------------------------------------------------------------------------------------------

  /** 16-bit elements at an odd place: written elsewhere and moved there by a kernel. */
  #writeUnaligned(storage: number, byteOffset: number, data: ArrayBufferView): void {
    const temporary = this.allocate(data.byteLength);
    this.write(temporary, 0, data);
    const count = data.byteLength / 2;
    const view = { byteOffset: 0, dtype: 'bf16', shape: [count], rowStride: count } as const;
    this.run(
      'copy',
      [
        { ...view, storage: temporary },
        { ...view, storage, byteOffset },
      ],
      [],
    );
    this.release(temporary);
  }

  #takeStaging(bytes: number): GPUBuffer {
    const at = this.#staging.findIndex(({ size }) => size >= bytes && size <= Math.max(4 * bytes, 2 ** 16));
    if (at >= 0) return this.#staging.splice(at, 1)[0]!;
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 2 ** 12)));
    return this.gpuDevice.createBuffer({ size, usage: bufferUsage.MAP_READ | bufferUsage.COPY_DST, label: 'staging' });
  }

  #returnStaging(buffer: GPUBuffer): void {
    if (this.#closed || this.#staging.length >= 8) buffer.destroy();
    else this.#staging.push(buffer);
  }
}

/** A view that can be spread: a `Tensor` has getters. */
function plainView(tensor: TensorView | null): TensorView | null {
  if (!tensor) return null;
  const { storage, byteOffset, dtype, shape, rowStride } = tensor;
  return { storage, byteOffset, dtype, shape, rowStride };
}

function argumentsOf(
  operation: OperationName,
  tensors: readonly (TensorView | null)[],
  scalars: readonly number[],
): never {
  const { tensors: names, scalars: scalarNames } = operations[operation];
  const entries = [
    ...Object.keys(names).map((name, i) => [name, tensors[i]] as const),
    ...scalarNames.map((name, i) => [name, scalars[i]] as const),
  ];
  return Object.fromEntries(entries) as never;
}
