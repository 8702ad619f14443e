import { UnsupportedError } from '../errors.js';

/** What a worker runs: an export of a module, or with `args` what that export returns when it is called with them. */
export interface WorkerProgram {
  /** Address or path of the module. */
  module: string;
  export: string;
  args?: readonly unknown[];
  /** Most memory of JavaScript objects, in MiB. */
  maxMemoryMb?: number;
}

/** A function in a thread of its own, which can be stopped whatever it does. One call at a time. */
export interface ModuleWorker {
  /** False once the thread has ended. */
  readonly alive: boolean;
  /** What the function returns for a value that can be cloned. Rejects with a `WorkerCrash` when the thread ends. */
  call(argument: unknown): Promise<unknown>;
  terminate(): Promise<void>;
}

/** The thread ended by itself: it left, ran out of memory, or threw outside of a call. */
export class WorkerCrash extends Error {}

/** Starts a thread and resolves when its module is loaded. The program is a function, or an object with `score`. */
export type StartWorker = (program: WorkerProgram) => Promise<ModuleWorker>;

let installed: StartWorker | null = null;

/** Called once by the platform's own module, as with `installFileSystem`. */
export function installWorkers(start: StartWorker): void {
  installed = start;
}

export function startWorker(program: WorkerProgram): Promise<ModuleWorker> {
  if (!installed) throw new UnsupportedError('Workers', 'this platform');
  return installed(program);
}
