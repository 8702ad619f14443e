/// <reference types="@webgpu/types" preserve="true" />
import {
  type Backend,
  bytesPerElement,
  type DeviceMemory,
  type DType,
  dtypes,
  type OperationArguments,
  type OperationName,
  operations,
  type TensorView,
} from './backend/backend.js';
import { checkArguments } from './backend/check-arguments.js';
import { decode, encode, type TensorData } from './dtype.js';
import { DisposedError, InvalidArgumentError, UnsupportedError } from './errors.js';
import { type Holdings, Recorder, Recording } from './recording.js';

/**
 * A typed array on a device. Operations on it are queued; only `read()` waits. Memory is freed by `dispose()`; what is
 * forgotten is freed by the garbage collector some time later.
 */
export class Tensor implements TensorView {
  readonly device: Device;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly rowStride: number;
  readonly byteOffset: number;
  /** @internal */
  readonly memory: Memory;
  #disposed = false;

  /** @internal Use `device.tensor`, `device.empty`, `device.zeros` or `view`. */
  constructor(
    device: Device,
    memory: Memory,
    dtype: DType,
    shape: readonly number[],
    byteOffset: number,
    rowStride: number,
  ) {
    this.device = device;
    this.memory = memory;
    this.dtype = dtype;
    this.shape = shape;
    this.byteOffset = byteOffset;
    this.rowStride = rowStride;
    memory.owners++;
  }

  get size(): number {
    return elementCount(this.shape);
  }

  get disposed(): boolean {
    return this.#disposed || !this.memory.live;
  }

  /** @internal */
  get storage(): number {
    if (this.disposed || this.device.closed) throw new DisposedError(`A tensor of shape [${this.shape.join(',')}]`);
    return this.memory.storage;
  }

  /**
   * Another tensor over the same memory, `offset` elements further. It must stay inside this tensor's memory. The memory
   * is freed when the last tensor over it is disposed.
   */
  view(shape: readonly number[], offset = 0, rowStride = shape.at(-1) ?? 1): Tensor {
    checkShape('shape', shape);
    const storage = this.storage;
    const size = bytesPerElement[this.dtype];
    const begin = this.byteOffset + offset * size;
    const end = begin + spannedElements(shape, rowStride) * size;
    if (!Number.isInteger(offset) || offset < 0 || rowStride < (shape.at(-1) ?? 1) || end > this.memory.bytes) {
      const expected = `a view inside ${this.memory.bytes / size} elements of storage ${storage}`;
      throw new InvalidArgumentError('view', expected, [...shape, offset]);
    }
    return new Tensor(this.device, this.memory, this.dtype, [...shape], begin, rowStride);
  }

  /** Copies `data` into the tensor, converting float32 numbers to the tensor's dtype. The tensor must be contiguous. */
  write(data: TensorData): void {
    this.#requireContiguous('write');
    this.device.refuseInRecording('write');
    if (data.length !== this.size) {
      const expected = `${this.size} elements (shape [${this.shape.join(',')}])`;
      throw new InvalidArgumentError('data', expected, `${data.length} elements`);
    }
    this.device.backend.write(this.storage, this.byteOffset, encode(data, this.dtype));
  }

  /** The values, row by row: Int32Array for i32, Float32Array for the others. */
  async read(): Promise<Float32Array | Int32Array> {
    this.#requireContiguous('read');
    this.device.refuseInRecording('read');
    const bytes = this.size * bytesPerElement[this.dtype];
    const buffer = await this.device.backend.read(this.storage, this.byteOffset, bytes);
    return decode(buffer, this.dtype);
  }

  /** The bytes as they are stored, for files. */
  async readBytes(): Promise<Uint8Array> {
    this.#requireContiguous('readBytes');
    this.device.refuseInRecording('readBytes');
    const bytes = this.size * bytesPerElement[this.dtype];
    return new Uint8Array(await this.device.backend.read(this.storage, this.byteOffset, bytes));
  }

  /** Writes bytes as `readBytes` gives them. */
  writeBytes(data: Uint8Array): void {
    this.#requireContiguous('writeBytes');
    this.device.refuseInRecording('writeBytes');
    const bytes = this.size * bytesPerElement[this.dtype];
    if (data.byteLength !== bytes) throw new InvalidArgumentError('data', `${bytes} bytes`, data.byteLength);
    this.device.backend.write(this.storage, this.byteOffset, data);
  }

  /** Frees the memory once every queued operation on it has run. Calling it again does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    if (--this.memory.owners === 0) this.device.free(this.memory);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #requireContiguous(what: string): void {
    if (this.shape.length > 1 && this.rowStride !== this.shape.at(-1)) {
      throw new InvalidArgumentError(what, 'a contiguous tensor', `row stride ${this.rowStride}`);
    }
  }
}

/** A device: where tensors live and operations run. Made by `openDevice`. */
export class Device {
  readonly backend: Backend;
  /** Why this device was chosen. */
  readonly why: string;
  readonly #collected = new FinalizationRegistry<number>((storage) => this.#release(storage));
  readonly #forgotten = new FinalizationRegistry<Holdings>((holdings) => this.#giveBack(holdings));
  #recorder: Recorder | null = null;
  #liveTensors = 0;
  #closed = false;

  constructor(backend: Backend, why: string) {
    this.backend = backend;
    this.why = why;
  }

  get kind(): Backend['kind'] {
    return this.backend.kind;
  }

  get name(): string {
    return this.backend.name;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Copies `data` to the device. bf16 and f16 take float numbers, or their bits as Uint16Array. */
  tensor(data: TensorData, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    this.refuseInRecording('tensor');
    const t = this.empty(shape, dtype);
    try {
      t.write(data);
    } catch (error) {
      t.dispose();
      throw error;
    }
    return t;
  }

  /** Memory with undefined content. */
  empty(shape: readonly number[], dtype: DType = 'f32'): Tensor {
    this.#check();
    checkShape('shape', shape);
    if (!dtypes.includes(dtype)) throw new InvalidArgumentError('dtype', dtypes.join(', '), dtype);
    const bytes = elementCount(shape) * bytesPerElement[dtype];
    if (!this.#recorder) return this.#own(this.backend.allocate(bytes), bytes, shape, dtype);
    const memory = this.#recorder.take(bytes, (size) => {
      this.#liveTensors++;
      return this.backend.allocate(size);
    });
    return new Tensor(this, memory, dtype, [...shape], 0, shape.at(-1) ?? 1);
  }

  zeros(shape: readonly number[], dtype: DType = 'f32'): Tensor {
    const t = this.empty(shape, dtype);
    this.run('fill', { out: t, value: 0 });
    return t;
  }

  /**
   * A tensor over memory that somebody else owns, of this device. It must stay valid until the tensor is disposed and
   * its queued work has run (`synchronize`), unless `keepAlive` takes care of that.
   */
  tensorFromPointer(
    pointer: bigint,
    shape: readonly number[],
    dtype: DType = 'f32',
    { stream, keepAlive, ...unknown }: PointerOptions = {},
  ): Tensor {
    this.#check();
    this.refuseInRecording('tensorFromPointer');
    checkShape('shape', shape);
    if (!dtypes.includes(dtype)) throw new InvalidArgumentError('dtype', dtypes.join(', '), dtype);
    if (typeof pointer !== 'bigint' || pointer === 0n) throw new InvalidArgumentError('pointer', 'an address', pointer);
    if (!this.backend.adopt) throw new UnsupportedError('tensorFromPointer', `the ${this.kind} backend`);
    this.#checkStream(stream);
    const isObject = (typeof keepAlive === 'object' && keepAlive !== null) || typeof keepAlive === 'function';
    if (keepAlive !== undefined && !isObject) throw new InvalidArgumentError('keepAlive', 'an object', keepAlive);
    const [name] = Object.keys(unknown);
    if (name) throw new InvalidArgumentError('tensorFromPointer', 'options among stream, keepAlive', name);
    const bytes = elementCount(shape) * bytesPerElement[dtype];
    return this.#own(this.backend.adopt(pointer, bytes, stream, keepAlive), bytes, shape, dtype);
  }

  /**
   * A tensor over a WebGPU buffer of the same GPU device that somebody else owns; it must stay alive until the tensor is
   * disposed. Its usage must include STORAGE, and COPY_SRC for `read`, COPY_DST for `write`.
   */
  tensorFromBuffer(buffer: GPUBuffer, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    this.#check();
    this.refuseInRecording('tensorFromBuffer');
    checkShape('shape', shape);
    if (!this.backend.adoptBuffer) throw new UnsupportedError('tensorFromBuffer', `the ${this.kind} backend`);
    const bytes = elementCount(shape) * bytesPerElement[dtype];
    if (!(buffer?.size >= bytes))
      throw new InvalidArgumentError('buffer', `a GPUBuffer of ${bytes} bytes`, buffer?.size);
    return this.#own(this.backend.adoptBuffer(buffer, bytes), bytes, shape, dtype);
  }

  /** Queues an operation of `backend/backend.ts` after checking its arguments. */
  run<Name extends OperationName>(name: Name, args: OperationArguments<Name, Tensor>): void {
    this.#check();
    const given = args as Record<string, Tensor | number | null | undefined>;
    const views = tensorNames[name].map((key) => this.#tensorArgument(name, key, given[key]));
    const numbers = operations[name].scalars.map((key) => {
      const value = given[key];
      if (typeof value !== 'number') throw new InvalidArgumentError(`${name}: ${key}`, 'a number', value);
      return value;
    });
    checkArguments(name, views);
    if (this.#recorder) this.#recorder.add(name, tensorNames[name], views, numbers);
    else this.backend.run(name, views, numbers);
  }

  /**
   * Remembers the operations that `run` calls instead of carrying them out; `replay()` of what this gives carries them
   * out, as often as it is called. Tensors made inside `run` belong to the recording: they keep their memory until it is
   * disposed of, and memory of those that `run` disposes of goes to later ones of the same size. No data goes in or out
   * inside `run`: `tensor`, `write`, `read`, adopting memory, collectives and `record` itself are an `UnsupportedError`.
   */
  record(run: () => void): Recording {
    this.#check();
    this.refuseInRecording('record');
    if (typeof run !== 'function') throw new InvalidArgumentError('run', 'a function', run);
    const recorder = new Recorder();
    this.#recorder = recorder;
    try {
      const result: unknown = run();
      if (result instanceof Promise) {
        result.catch(() => {});
        throw new InvalidArgumentError('run', 'a function that waits for nothing', 'one that gives a promise');
      }
      this.#check();
      recorder.holdings.program = this.backend.record(recorder.calls);
    } catch (error) {
      this.#recorder = null;
      recorder.end();
      this.#giveBack(recorder.holdings);
      throw error;
    }
    this.#recorder = null;
    this.#forgotten.register(recorder, recorder.holdings, recorder);
    return new Recording(this, recorder);
  }

  /**
   * Resolves when everything queued so far has run. With the `stream` of a CUDA program, as for `tensorFromPointer`, it
   * does not wait for the device: it resolves when that stream does, so that what is queued on it afterwards sees the
   * results.
   */
  async synchronize({ stream }: { stream?: bigint } = {}): Promise<void> {
    this.#check();
    this.#checkStream(stream);
    await this.backend.synchronize(stream);
  }

  /** Memory in use, and how many allocations have not been disposed. */
  memory(): DeviceMemory & { liveTensors: number } {
    return { ...this.backend.memory(), liveTensors: this.#liveTensors };
  }

  /** Stops the device and frees everything on it. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#liveTensors = 0;
    this.backend.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal Called when the last tensor over `memory` was disposed. */
  free(memory: Memory): void {
    if (memory.recorder) {
      memory.recorder.free(memory);
      return;
    }
    memory.live = false;
    this.#collected.unregister(memory);
    this.#release(memory.storage);
  }

  /** @internal */
  releaseRecorder(recorder: Recorder): void {
    this.#forgotten.unregister(recorder);
    recorder.end();
    this.#giveBack(recorder.holdings);
  }

  /** @internal Throws inside the function that `record` was given. */
  refuseInRecording(what: string): void {
    if (this.#recorder) throw new UnsupportedError(what, 'a recording', 'Data goes in and out between replays');
  }

  #giveBack({ program, storages }: Holdings): void {
    if (this.#closed) return;
    program?.release();
    for (const storage of storages) this.#release(storage);
  }

  #release(storage: number): void {
    if (this.#closed) return;
    this.#liveTensors--;
    this.backend.release(storage);
  }

  #check(): void {
    if (this.#closed) throw new DisposedError(`The device ${this.name}`);
  }

  #checkStream(stream: bigint | undefined): void {
    if (stream === undefined) return;
    if (this.kind !== 'cuda') throw new UnsupportedError('The option stream', `the ${this.kind} backend`);
    if (typeof stream !== 'bigint' || BigInt.asUintN(64, stream) !== stream) {
      throw new InvalidArgumentError('stream', 'the address of a CUDA stream, as a bigint', stream);
    }
  }

  #tensorArgument(operation: string, key: string, value: Tensor | number | null | undefined): Tensor | null {
    if (value === null || value === undefined) return null;
    if (!(value instanceof Tensor)) throw new InvalidArgumentError(`${operation}: ${key}`, 'a tensor', value);
    if (value.device !== this) {
      throw new InvalidArgumentError(`${operation}: ${key}`, `a tensor of ${this.name}`, `one of ${value.device.name}`);
    }
    return value;
  }

  #own(storage: number, bytes: number, shape: readonly number[], dtype: DType): Tensor {
    const memory: Memory = { storage, bytes, owners: 0, live: true, recorder: null };
    this.#liveTensors++;
    this.#collected.register(memory, storage, memory);
    return new Tensor(this, memory, dtype, [...shape], 0, shape.at(-1) ?? 1);
  }
}

/** Options of `tensorFromPointer`. */
export interface PointerOptions {
  /**
   * CUDA only: the stream (`cudaStream_t` as an address; 0n is the default stream) that the memory's owner works on.
   * What is queued here from now on runs after what the stream holds; for the other direction there is
   * `device.synchronize({ stream })`. It must exist until a `synchronize` after this call has resolved.
   */
  stream?: bigint | undefined;
  /**
   * Held until the tensor and its views were disposed of or forgotten and their queued work has run, or the device has
   * closed: what owns the memory, say. An object that itself refers to the tensor is held until `dispose()`.
   */
  keepAlive?: object | undefined;
}

/** @internal One allocation, shared by the views over it. */
export interface Memory {
  readonly storage: number;
  readonly bytes: number;
  owners: number;
  /** Whether it still belongs to its tensors. */
  live: boolean;
  /** The recording that it belongs to. */
  readonly recorder: Recorder | null;
}

const tensorNames = Object.fromEntries(
  Object.entries(operations).map(([name, { tensors }]) => [name, Object.keys(tensors)]),
) as Record<OperationName, string[]>;

/** Disposes of everything it was told to track, tensors above all, unless kept. */
export class Scope {
  readonly #tracked = new Set<{ dispose(): void }>();

  track<T extends { dispose(): void }>(item: T): T {
    this.#tracked.add(item);
    return item;
  }

  /** Takes something out of the scope: the caller disposes of it. */
  keep<T extends { dispose(): void }>(item: T): T {
    this.#tracked.delete(item);
    return item;
  }

  dispose(): void {
    for (const item of this.#tracked) item.dispose();
    this.#tracked.clear();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, 1);
}

function spannedElements(shape: readonly number[], rowStride: number): number {
  const columns = shape.at(-1) ?? 1;
  const rows = elementCount(shape.slice(0, -1));
  return rows === 0 || columns === 0 ? 0 : (rows - 1) * rowStride + columns;
}

function checkShape(name: string, shape: readonly number[]): void {
  const valid =
    Array.isArray(shape) && shape.length <= 4 && shape.every((length) => Number.isSafeInteger(length) && length >= 0);
  if (!valid) throw new InvalidArgumentError(name, 'at most four lengths of 0 or more', shape);
}
