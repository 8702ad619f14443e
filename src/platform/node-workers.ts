import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { installWorkers, type ModuleWorker, WorkerCrash, type WorkerProgram } from './workers.js';

/** Runs in the thread. A text, so that it needs no file beside this one, compiled or not. */
const threadSource = `
const { parentPort, workerData } = require('node:worker_threads');
const messageOf = (error) => String(error?.message ?? error);
(async () => {
  const exports = await import(workerData.module);
  let program = exports[workerData.export];
  if (program === undefined) {
    throw new Error('there is no export ' + workerData.export + ', only ' + Object.keys(exports).join(', '));
  }
  if (workerData.args) program = await program(...workerData.args);
  const call = typeof program === 'function' ? program : program?.score?.bind(program);
  if (typeof call !== 'function') throw new Error(workerData.export + ' is neither a function nor a reward');
  parentPort.on('message', async (argument) => {
    try {
      const value = await call(argument);
      parentPort.postMessage({ value: Array.isArray(value) ? value : ArrayBuffer.isView(value) ? [...value] : value });
    } catch (error) {
      parentPort.postMessage({ error: messageOf(error) });
    }
  });
  parentPort.postMessage({ value: 'ready' });
})().catch((error) => parentPort.postMessage({ error: messageOf(error) }));
`;

interface Reply {
  value?: unknown;
  error?: string;
}

interface Pending {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

class NodeWorker implements ModuleWorker {
  readonly #worker: Worker;
  #pending: Pending | null = null;
  #crash: WorkerCrash | null = null;

  constructor({ module, export: name, args, maxMemoryMb }: WorkerProgram) {
    const workerData = { module: addressOf(module), export: name, args };
    const resourceLimits = maxMemoryMb === undefined ? {} : { maxOldGenerationSizeMb: maxMemoryMb };
    this.#worker = new Worker(threadSource, { eval: true, workerData, resourceLimits });
    this.#worker.on('message', ({ value, error }: Reply) => {
      if (error === undefined) this.#settle((pending) => pending.resolve(value));
      else this.#settle((pending) => pending.reject(new Error(error)));
    });
    this.#worker.on('error', (error) => this.#end(`the worker failed: ${error.message}`));
    this.#worker.on('exit', (code) => this.#end(`the worker ended with code ${code}`));
  }

  get alive(): boolean {
    return this.#crash === null;
  }

  /** The first reply tells that the module was loaded. */
  ready(): Promise<unknown> {
    return this.#reply();
  }

  call(argument: unknown): Promise<unknown> {
    if (this.#crash) return Promise.reject(this.#crash);
    const reply = this.#reply();
    try {
      this.#worker.postMessage(argument);
    } catch (error) {
      this.#settle((pending) => pending.reject(error as Error));
    }
    return reply;
  }

  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #reply(): Promise<unknown> {
    // A worker that nobody waits for must not keep the process alive.
    this.#worker.ref();
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject };
    });
  }

  #settle(use: (pending: Pending) => void): void {
    const pending = this.#pending;
    this.#pending = null;
    this.#worker.unref();
    if (pending) use(pending);
  }

  #end(message: string): void {
    this.#crash ??= new WorkerCrash(message);
    this.#settle((pending) => pending.reject(this.#crash!));
  }
}

/** Paths become addresses; names of packages stay. */
function addressOf(module: string): string {
  if (/^(file|data|node):/.test(module)) return module;
  return /^(\.{0,2}[/\\]|[a-z]:[/\\])/i.test(module) ? pathToFileURL(resolve(module)).href : module;
}

installWorkers(async (program) => {
  const worker = new NodeWorker(program);
  try {
    await worker.ready();
    return worker;
  } catch (error) {
    await worker.terminate();
    throw error;
  }
});
