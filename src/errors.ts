/** Every error that this package throws on purpose. `code` is stable; the message is for people and may change. */
export class GrpoError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** An argument, option or configuration value that cannot be used. Names what, the value expected and the value got. */
export class InvalidArgumentError extends GrpoError {
  constructor(name: string, expected: string, got: unknown, options?: ErrorOptions) {
    super('GRPO_INVALID_ARGUMENT', `Expected ${expected} for ${name} but received ${describe(got)}`, options);
  }
}

/** A tensor, device or policy was used after `dispose()` or `close()`. */
export class DisposedError extends GrpoError {
  constructor(what: string) {
    super('GRPO_DISPOSED', `${what} was used after it was disposed`);
  }
}

/** An option or operation that this path does not have. Names the option and the path, or is a kernel's own sentence. */
export class UnsupportedError extends GrpoError {
  constructor(what: string, where?: string, hint?: string) {
    super('GRPO_UNSUPPORTED', where ? `${what} is not supported by ${where}${hint ? `. ${hint}` : ''}` : what);
  }
}

/** A device ran out of memory. The process and the device stay usable. */
export class OutOfMemoryError extends GrpoError {
  constructor(message: string) {
    super('GRPO_OUT_OF_MEMORY', message);
  }
}

/** A kernel refused its arguments or failed while it ran. */
export class KernelError extends GrpoError {
  constructor(message: string) {
    super('GRPO_KERNEL', message);
  }
}

/** The device can no longer be used; nothing short of a new process brings it back. */
export class DeviceLostError extends GrpoError {
  constructor(message: string) {
    super('GRPO_DEVICE_LOST', message);
  }
}

/** Why a collective failed: what of it is known. */
export interface CollectiveFailure {
  /**
   * `peer`: another rank died or left; `timeout`: it did not answer in time; `mismatch`: it called something else;
   * `aborted`: `ProcessGroup.abort`; `input`: a tensor to send could not be computed here; `engine`: anything else that the
   * communication library reports.
   */
  reason: 'peer' | 'timeout' | 'mismatch' | 'aborted' | 'input' | 'engine';
  /** The rank that reports. */
  rank: number;
  worldSize: number;
  /** The rank that is to blame, as far as this one knows. */
  peer: number | undefined;
  /** allReduce, reduceScatter, allGather, broadcast, reduce, connect or close. */
  collective: string;
  /** Which collective of the group it was, from 1; 0 for connect and close. */
  sequence: number;
  /** Elements and dtype of the tensor that the others are compared with. */
  size: string;
}

/** An exchange between processes that failed. The group of processes can no longer be used. */
export class CollectiveError extends GrpoError implements CollectiveFailure {
  readonly reason!: CollectiveFailure['reason'];
  readonly rank!: number;
  readonly worldSize!: number;
  readonly peer!: number | undefined;
  readonly collective!: string;
  readonly sequence!: number;
  readonly size!: string;

  constructor(failure: CollectiveFailure, detail: string) {
    const { collective, sequence, size, rank, worldSize } = failure;
    const what = `${collective}${sequence ? ` ${sequence}` : ''}${size ? ` (${size})` : ''}`;
    super('GRPO_COLLECTIVE', `${what} on rank ${rank} of ${worldSize}: ${detail}`);
    Object.assign(this, failure);
  }
}

/** A file (data, model, checkpoint, configuration) that cannot be used. Names the file and, where it has one, the line. */
export class FileFormatError extends GrpoError {
  readonly file: string;
  readonly line: number | undefined;

  constructor(file: string, problem: string, line?: number, options?: ErrorOptions) {
    super('GRPO_FILE_FORMAT', `${file}${line === undefined ? '' : `:${line}`}: ${problem}`, options);
    this.file = file;
    this.line = line;
  }
}

/** One step of looking for a backend: where, how far it came, and what stopped it. */
export interface BackendAttempt {
  path: string;
  stage: 'resolve' | 'load' | 'abi' | 'driver' | 'device';
  message: string;
}

/** A device kind that this machine cannot offer, with everything that was tried and what to do next. */
export class BackendUnavailableError extends GrpoError {
  readonly backend: string;
  readonly attempts: BackendAttempt[];

  constructor(backend: string, attempts: BackendAttempt[], actions: string[]) {
    const tried = attempts.map((a) => `  - ${a.path} (${a.stage}): ${a.message}`).join('\n');
    const next = actions.map((a) => `  - ${a}`).join('\n');
    super(
      'GRPO_BACKEND_UNAVAILABLE',
      `The ${backend} backend is not available.\nTried:\n${tried || '  - nothing'}\nWhat to do:\n${next}`,
    );
    this.backend = backend;
    this.attempts = attempts;
  }
}

function describe(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint') return String(value);
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'function') return `a function${value.name ? ` (${value.name})` : ''}`;
  if (Array.isArray(value)) return `[${value.slice(0, 8).map(describe).join(', ')}${value.length > 8 ? ', …' : ''}]`;
  return Object.getPrototypeOf(value)?.constructor?.name ?? 'an object';
}
