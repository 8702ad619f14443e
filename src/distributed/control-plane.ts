import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { GrpoError } from '../errors.js';
import { type ControlLimits, checkLimits } from './control-limits.js';
import { type Identity, LineSocket, type PlaneMessage, protocol, type RankMessage } from './control-messages.js';
import { ControlServer, during, rankFailure, rendezvousFailure } from './control-server.js';
import { type DistributedError, type DistributedFailure, errorOf, RendezvousError } from './errors.js';
import { exitCodeOf, exitCodes } from './exit-codes.js';
import type { LaunchEnvironment } from './launch-environment.js';

/** What must be the same in all processes of a run. */
export interface RunIdentity {
  /** Of this package. */
  version: string;
  configHash: string;
  /** Options of the configuration as text, to name those that differ. */
  config?: Record<string, string>;
}

/** Time in which a process that listens at the port must answer. Milliseconds. */
const helloTime = 5000;
/** Time in which the port of an earlier start of the run may still be taken. Milliseconds. */
const portPatience = 10_000;
/** Between two activities that are told; what lasts shorter is not worth a message. Milliseconds. */
const activityInterval = 20;

type Lines = LineSocket<PlaneMessage, RankMessage>;

/**
 * What holds the processes of a run together beside the collectives: all join at rank 0, say that they are alive, and stop
 * together when one of them cannot go on. Over TCP, a line of JSON a message.
 */
export class ControlPlane {
  readonly rank: number;
  readonly worldSize: number;
  readonly #limits: ControlLimits;
  readonly #server: ControlServer | null;
  readonly #address: string;
  readonly #controller = new AbortController();
  readonly #listeners = new Set<(error: DistributedError) => void>();
  readonly #wanted = new Map<number, { resolve: (value: Uint8Array) => void; reject: (error: Error) => void }>();
  #lines: Lines | null = null;
  #heartbeat: NodeJS.Timeout | null = null;
  #activityTimer: NodeJS.Timeout | null = null;
  #activity: string | null = null;
  /** What rank 0 said last that it does. */
  #activityOfFirst: string | null = null;
  #silentTicks = 0;
  #joined = false;
  #nextId = 0;
  #failure: DistributedError | null = null;
  #over = false;
  #goodbye: (() => void) | null = null;

  private constructor(environment: LaunchEnvironment, limits: ControlLimits, server: ControlServer | null) {
    this.rank = environment.rank;
    this.worldSize = environment.worldSize;
    this.#address = `${environment.masterAddress}:${environment.masterPort}`;
    this.#limits = limits;
    this.#server = server;
  }

  /**
   * Brings the processes of a run together; resolves when all are there. When they do not fit together, or do not come,
   * every one of them gets the same error.
   */
  static async join(
    environment: LaunchEnvironment,
    run: RunIdentity,
    limits: Partial<ControlLimits> = {},
  ): Promise<ControlPlane> {
    const { runId, generation, rank, worldSize } = environment;
    const identity: Identity = { runId, generation, rank, worldSize, config: {}, ...run };
    const checked = checkLimits(limits);
    const server = rank === 0 ? await listen(environment, identity, checked) : null;
    const plane = new ControlPlane(environment, checked, server);
    try {
      await plane.#join(environment, identity);
      return plane;
    } catch (error) {
      await plane.close();
      throw error;
    }
  }

  /** The address by which this process reaches rank 0: the others reach it by the same network. */
  get localAddress(): string | undefined {
    return this.#lines?.ownAddress;
  }

  /** Aborted, with the error that all ranks stop with, when the run cannot go on. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The error that all ranks stop with; null while the run goes on. */
  get failure(): DistributedError | null {
    return this.#failure;
  }

  /** Keys and values that all ranks see. `get` waits until the key has been set. */
  readonly store = {
    set: async (key: string, value: Uint8Array): Promise<void> => {
      if (this.#failure) throw this.#failure;
      this.#lines?.send({ type: 'set', key, value: Buffer.from(value).toString('base64') });
    },
    get: (key: string): Promise<Uint8Array> => {
      if (this.#failure) return Promise.reject(this.#failure);
      const id = this.#nextId++;
      return new Promise((resolve, reject) => {
        this.#wanted.set(id, { resolve, reject });
        this.#lines?.send({ type: 'get', id, key });
      });
    },
  };

  /** `listener` is called once when the run cannot go on; at once when that is so already. Returns how to take it back. */
  onAbort(listener: (error: DistributedError) => void): () => void {
    if (this.#failure) listener(this.#failure);
    else this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Says what this rank is doing, for the error that names it if it dies or hangs there. */
  report(activity: string): void {
    if (activity === this.#activity) return;
    this.#activity = activity;
    if (this.#over || this.#activityTimer) return;
    this.#beat();
    this.#activityTimer = setTimeout(() => {
      this.#activityTimer = null;
      if (this.#activity !== activity && !this.#over) this.#beat();
    }, activityInterval);
  }

  /**
   * Tells all ranks that this one cannot go on, and gives the error that they stop with. Usually that is about this rank;
   * with `secondary`, for the error of a collective, it may be about another one that died first.
   */
  async fail(error: unknown, { secondary = false }: { secondary?: boolean } = {}): Promise<DistributedError> {
    if (this.#failure) return this.#failure;
    const text = error instanceof GrpoError ? `${error.message} (${error.code})` : String(error);
    const failure: DistributedFailure = {
      code: 'GRPO_RANK_FAILED',
      message: `Rank ${this.rank} failed${during(this.#activity)}: ${text}`,
      ranks: [this.rank],
      activity: this.#activity,
      exitCode: exitCodeOf(error),
    };
    this.#lines?.send({ type: 'fail', failure, secondary });
    const patience = 3000 + 2000 * this.#limits.heartbeat;
    await Promise.race([new Promise((resolve) => this.onAbort(resolve)), sleep(patience, null, { ref: false })]);
    this.#abort(failure);
    return this.#failure!;
  }

  /** Goodbye, when the work is done: resolves when all ranks have said it. Then, or after a failure, frees everything. */
  async leave(): Promise<void> {
    try {
      if (this.#failure) throw this.#failure;
      if (this.#over) return;
      await new Promise<void>((resolve, reject) => {
        this.#goodbye = resolve;
        this.onAbort(reject);
        this.#lines?.send({ type: 'bye' });
      });
    } finally {
      await this.close();
    }
  }

  /** Frees everything without a goodbye: the other ranks take it for a death unless they have been told more. */
  async close(): Promise<void> {
    this.#end();
    this.#lines?.end();
    await this.#server?.close();
    this.#lines?.destroy();
  }

  async #join(environment: LaunchEnvironment, identity: Identity): Promise<void> {
    const deadline = Date.now() + this.#limits.joinTimeout * 1000;
    let reason = 'nothing answered';
    // A little longer than rank 0 waits, whose error says which ranks did not come.
    while (Date.now() < deadline + 2000) {
      const attempt = await this.#attempt(environment, identity, deadline + 2000);
      if (attempt.kind === 'joined') return;
      if (attempt.kind === 'refused') throw attempt.error;
      reason = attempt.reason;
      await sleep(100);
    }
    const message = `Rank ${this.rank} could not join at ${this.#address} within ${this.#limits.joinTimeout} s: ${reason}`;
    const failure = rendezvousFailure('TIMEOUT', message, [this.rank]);
    throw new RendezvousError({ ...failure, exitCode: exitCodes.retryable });
  }

  /** One connection, up to the welcome or to what comes in its place. */
  #attempt({ masterAddress, masterPort }: LaunchEnvironment, identity: Identity, until: number): Promise<Attempt> {
    return new Promise((resolve) => {
      let stage: 'connecting' | 'joining' | 'joined' | 'done' = 'connecting';
      const settle = (attempt: Attempt) => {
        if (stage === 'joined' || stage === 'done') return;
        this.#joined = attempt.kind === 'joined';
        stage = this.#joined ? 'joined' : 'done';
        clearTimeout(silence);
        clearTimeout(end);
        if (!this.#joined) lines.destroy();
        resolve(attempt);
      };
      const socket = connect({ host: masterAddress, port: masterPort });
      const lines: Lines = new LineSocket<PlaneMessage, RankMessage>(
        socket,
        (message) => {
          if (stage === 'joined') return this.#receive(message);
          if (message.type === 'hello' && message.protocol === protocol && stage === 'connecting') {
            stage = 'joining';
            clearTimeout(silence);
            lines.trust();
            lines.send({ type: 'join', ...identity });
            this.#lines = lines;
            this.#heartbeat ??= setInterval(() => this.#tick(), this.#limits.heartbeat * 1000);
          } else if (message.type === 'refused') {
            const error = errorOf(message.failure);
            settle(message.retry ? { kind: 'again', reason: error.message } : { kind: 'refused', error });
          } else if (message.type === 'abort') {
            settle({ kind: 'refused', error: errorOf(message.failure) });
          } else if (message.type === 'welcome') {
            settle({ kind: 'joined' });
          } else if (message.type !== 'beat' || stage === 'connecting') {
            settle({ kind: 'again', reason: 'what listens there is no control plane of this version' });
          }
        },
        (why) => {
          if (stage === 'joined') this.#disconnected(why);
          else settle({ kind: 'again', reason: why });
        },
      );
      const silence = setTimeout(
        () => settle({ kind: 'again', reason: 'what listens there does not answer as a control plane' }),
        helloTime,
      );
      const late = { kind: 'again', reason: 'it was waiting for other ranks, or for an answer' } as const;
      const end = setTimeout(() => settle(late), until - Date.now());
    });
  }

  #receive(message: PlaneMessage): void {
    this.#silentTicks = 0;
    switch (message.type) {
      case 'beat':
        this.#activityOfFirst = message.activity;
        break;
      case 'value':
        this.#wanted.get(message.id)?.resolve(Buffer.from(message.value, 'base64'));
        this.#wanted.delete(message.id);
        break;
      case 'abort':
        this.#abort(message.failure);
        break;
      case 'bye':
        this.#end();
        this.#goodbye?.();
        break;
    }
  }

  #disconnected(reason: string): void {
    if (this.#over) return;
    const message = `Rank 0 (${this.#address}) died: ${reason} without a goodbye${during(this.#activityOfFirst)}`;
    this.#abort(rankFailure('GRPO_RANK_DIED', message, [0], this.#activityOfFirst));
  }

  #tick(): void {
    this.#beat();
    // Until all are there the time to join is the limit.
    if (!this.#joined) return;
    // One tick more than rank 0 waits, so that its verdict about another rank comes first.
    if (++this.#silentTicks <= this.#limits.hungAfter / this.#limits.heartbeat + 1) return;
    const seconds = this.#silentTicks * this.#limits.heartbeat;
    const problem = `no sign of life for ${seconds} s: it hangs, or the link to it is cut`;
    const message = `Rank 0 (${this.#address}) gave rank ${this.rank} ${problem}${during(this.#activityOfFirst)}`;
    this.#abort(rankFailure('GRPO_RANK_HUNG', message, [0], this.#activityOfFirst));
  }

  #beat(): void {
    this.#lines?.send({ type: 'beat', activity: this.#activity });
  }

  #abort(failure: DistributedFailure): void {
    if (this.#failure || this.#over) return;
    const error = errorOf(failure);
    this.#failure = error;
    this.#end();
    this.#controller.abort(error);
    for (const { reject } of this.#wanted.values()) reject(error);
    this.#wanted.clear();
    for (const listener of this.#listeners) {
      try {
        listener(error);
      } catch {
        // What else listens must be told too; the error that counts is the one of the run.
      }
    }
    this.#listeners.clear();
  }

  #end(): void {
    this.#over = true;
    if (this.#heartbeat) clearInterval(this.#heartbeat);
    if (this.#activityTimer) clearTimeout(this.#activityTimer);
    this.#activityTimer = null;
  }
}

type Attempt = { kind: 'joined' } | { kind: 'refused'; error: DistributedError } | { kind: 'again'; reason: string };

/** The control plane of rank 0. An earlier start of the run may need a moment to give the port back. */
async function listen(environment: LaunchEnvironment, identity: Identity, limits: ControlLimits) {
  const { masterAddress, masterPort } = environment;
  const host = isLoopback(masterAddress) ? masterAddress : '0.0.0.0';
  const deadline = Date.now() + Math.min(portPatience, limits.joinTimeout * 1000);
  for (;;) {
    try {
      return await ControlServer.listen(host, masterPort, identity, limits);
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      const taken = code === 'EADDRINUSE';
      if (taken && identity.generation > 0 && Date.now() < deadline) {
        await sleep(200);
        continue;
      }
      const what = taken ? `Port ${masterPort} of ${masterAddress} is in use` : `Rank 0 cannot listen: ${message}`;
      const hint = taken ? ' by another program, or by another process with rank 0' : '';
      throw new RendezvousError(rendezvousFailure(taken ? 'PORT_IN_USE' : 'PORT', `${what}${hint}`, [0]));
    }
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\./.test(host);
}
