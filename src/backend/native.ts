import {
  CollectiveError,
  type CollectiveFailure,
  DeviceLostError,
  DisposedError,
  GrpoError,
  InvalidArgumentError,
  KernelError,
  OutOfMemoryError,
  UnsupportedError,
} from '../errors.js';
import {
  type Backend,
  type DeviceMemory,
  type DType,
  dtypes,
  type OperationName,
  operations,
  type Program,
  type RecordedCall,
  type ReplayStatistics,
  type TensorView,
} from './backend.js';
import type { Binding } from './binding.js';
import { parsedOperations } from './check-arguments.js';

const names = Object.keys(operations) as OperationName[];
const indexOf = Object.fromEntries(names.map((name, i) => [name, i])) as Record<OperationName, number>;
const dtypeCodes = Object.fromEntries(dtypes.map((dtype, i) => [dtype, i])) as Record<DType, number>;

const maxRank = 4;
export const tensorFields = 5 + maxRank;
const payloadLength = Math.max(...names.map(callLength));

function callLength(operation: OperationName): number {
  const { tensors, scalars } = operations[operation];
  return Object.keys(tensors).length * tensorFields + scalars.length;
}

/** Tells the addon how to make errors, and what each operation reads and writes. */
export function configureBinding(binding: Binding): void {
  const accesses = names.flatMap((name) => [parsedOperations[name].readMask, parsedOperations[name].writeMask]);
  binding.configure(makeError, Uint32Array.from(accesses));
}

/** The error of a code that the addon reports. */
function makeError(code: string, message: string): Error {
  switch (code) {
    case 'GRPO_DISPOSED':
      return new DisposedError(message);
    case 'GRPO_INVALID_ARGUMENT':
      return new InvalidArgumentError('the native addon', 'arguments that fit', message);
    case 'GRPO_OUT_OF_MEMORY':
      return new OutOfMemoryError(message);
    case 'GRPO_UNSUPPORTED':
      return new UnsupportedError(message);
    case 'GRPO_KERNEL':
      return new KernelError(message);
    case 'GRPO_DEVICE_LOST':
      return new DeviceLostError(message);
    case 'GRPO_COLLECTIVE':
      return collectiveError(message);
    default:
      return new GrpoError(code, message);
  }
}

/** The addon sends lines of `key=value`, an empty line, and what happened. */
function collectiveError(message: string): CollectiveError {
  const end = message.indexOf('\n\n');
  const lines = message.slice(0, end).split('\n');
  const { reason, collective, size, ...numbers } = Object.fromEntries(
    lines.map((line) => line.split(/=(.*)/s).slice(0, 2) as [string, string]),
  ) as Record<string, string>;
  const failure = {
    reason: reason as CollectiveFailure['reason'],
    collective: collective!,
    size: size!,
    rank: Number(numbers.rank),
    worldSize: Number(numbers.worldSize),
    sequence: Number(numbers.sequence),
    peer: numbers.peer === undefined ? undefined : Number(numbers.peer),
  };
  return new CollectiveError(failure, message.slice(end + 2));
}

/** Writes a tensor as the addon reads it, at `at`; gives where the next one goes. */
export function writeTensor(payload: Float64Array, at: number, tensor: TensorView | null): number {
  if (tensor) {
    const { shape } = tensor;
    payload[at] = tensor.storage;
    payload[at + 1] = tensor.byteOffset;
    payload[at + 2] = dtypeCodes[tensor.dtype];
    payload[at + 3] = shape.length;
    for (let d = 0; d < maxRank; d++) payload[at + 4 + d] = shape[d] ?? 1;
    payload[at + 4 + maxRank] = tensor.rowStride;
  } else {
    payload[at] = 0;
  }
  return at + tensorFields;
}

/** Writes a call as the addon reads it, at `at`; gives where the next one goes. */
function writeCall(payload: Float64Array, at: number, { tensors, scalars }: Omit<RecordedCall, 'operation'>): number {
  let next = at;
  for (const tensor of tensors) next = writeTensor(payload, next, tensor);
  for (const scalar of scalars) payload[next++] = scalar;
  return next;
}

/** A device that the addon drives: its kernels run on a thread of their own. */
export class NativeBackend implements Backend {
  readonly #binding: Binding;
  readonly #engine: number;
  #closed = false;
  readonly #payload = new Float64Array(payloadLength);

  constructor(
    binding: Binding,
    engine: number,
    readonly kind: 'cpu' | 'cuda',
    readonly name: string,
    readonly details: Readonly<Record<string, string>>,
  ) {
    this.#binding = binding;
    this.#engine = engine;
  }

  /** @internal The number by which the addon knows the device. */
  get engine(): number {
    return this.#engine;
  }

  allocate(bytes: number): number {
    return this.#binding.allocate(this.#engine, bytes);
  }

  adopt(pointer: bigint, bytes: number, stream?: bigint, keepAlive?: object): number {
    return this.#binding.adopt(this.#engine, pointer, bytes, stream, keepAlive);
  }

  release(storage: number): void {
    this.#binding.release(this.#engine, storage);
  }

  write(storage: number, byteOffset: number, data: ArrayBufferView): void {
    this.#binding.write(this.#engine, storage, byteOffset, data);
  }

  read(storage: number, byteOffset: number, bytes: number): Promise<ArrayBuffer> {
    return this.#binding.read(this.#engine, storage, byteOffset, bytes);
  }

  run(operation: OperationName, tensors: readonly (TensorView | null)[], scalars: readonly number[]): void {
    writeCall(this.#payload, 0, { tensors, scalars });
    this.#binding.run(this.#engine, indexOf[operation], this.#payload);
  }

  record(calls: readonly RecordedCall[]): Program {
    const payload = new Float64Array(calls.reduce((length, { operation }) => length + callLength(operation), 0));
    let at = 0;
    for (const call of calls) at = writeCall(payload, at, call);
    const indices = Uint32Array.from(calls, ({ operation }) => indexOf[operation]);
    return new NativeProgram(this.#binding, this.#engine, this.#binding.record(this.#engine, indices, payload));
  }

  synchronize(stream?: bigint): Promise<void> {
    return this.#binding.synchronize(this.#engine, stream);
  }

  /** As of the operations that have run so far: await `synchronize()` for what was just queued. */
  memory(): DeviceMemory {
    if (this.#closed) return { liveBytes: 0, reservedBytes: 0, peakBytes: 0 };
    return this.#binding.memory(this.#engine);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#binding.close(this.#engine);
  }
}

class NativeProgram implements Program {
  readonly #binding: Binding;
  readonly #engine: number;
  readonly #recording: number;

  constructor(binding: Binding, engine: number, recording: number) {
    this.#binding = binding;
    this.#engine = engine;
    this.#recording = recording;
  }

  replay(): void {
    this.#binding.replay(this.#engine, this.#recording);
  }

  release(): void {
    this.#binding.releaseRecording(this.#engine, this.#recording);
  }

  /** As of the replays that have run so far. */
  statistics(): ReplayStatistics {
    return this.#binding.recordingStatistics(this.#engine, this.#recording);
  }
}
