import { availableParallelism } from 'node:os';
import process from 'node:process';
import { availableDevices, openDevice } from '../backend/open-device.js';
import { ControlPlane, type RunIdentity } from '../distributed/control-plane.js';
import { RankFailedError } from '../distributed/errors.js';
import { exitCodeOf, exitCodes } from '../distributed/exit-codes.js';
import { type LaunchEnvironment, resolveLaunchEnvironment } from '../distributed/launch-environment.js';
import { watchLauncher } from '../distributed/launcher-watch.js';
import { openProcessGroup } from '../distributed/open-process-group.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { deviceOfRank } from '../distributed/rank-device.js';
import { reportingGroup } from '../distributed/reporting-group.js';
import { CollectiveError, type GrpoError } from '../errors.js';
import type { Device } from '../tensor.js';
import { hashText } from '../trainer/hash.js';
import { packageVersion } from './version.js';

/** What of a run's options concerns the ranks. */
export interface RankOptions {
  device: string;
  devices: readonly string[] | null;
  threads: number | null;
  joinTimeout: number;
  rankTimeout: number;
  hungAfter: number;
  networkInterface: string | null;
}

/** Time in which a rank must end by itself after a failure elsewhere, whatever it is waiting for. Milliseconds. */
const endingTime = 5000;

/** Where this process stands among those of its run; without a launcher it is alone. */
export class Ranks {
  readonly rank: number;
  readonly worldSize: number;
  /** Whether the launcher started the run again after a failure: it goes on from its last checkpoint. */
  readonly restarted: boolean;
  readonly #environment: LaunchEnvironment | null;
  readonly #plane: ControlPlane | null;
  #group: ProcessGroup | undefined;
  #shared = 0;
  #phase = '';
  #stopWatching: () => void = () => {};
  #ending: NodeJS.Timeout | null = null;

  private constructor(environment: LaunchEnvironment | null, plane: ControlPlane | null) {
    this.#environment = environment;
    this.#plane = plane;
    this.rank = environment?.rank ?? 0;
    this.worldSize = environment?.worldSize ?? 1;
    this.restarted = (environment?.generation ?? 0) > 0;
  }

  /** Meets the other processes; all must have the same options and the same version of this package. */
  static async join(run: RankOptions & Record<string, unknown>): Promise<Ranks> {
    const environment = resolveLaunchEnvironment(process.env);
    const alone = environment === null || environment.worldSize === 1;
    const { joinTimeout, hungAfter } = run;
    const limits = { joinTimeout, hungAfter, heartbeat: Math.min(2, hungAfter / 4) };
    let ranks: Ranks | null = null;
    const stopWatching = watchLauncher(() => {
      if (ranks) ranks.#launcherGone();
      else endWith(launcherGone(environment?.rank ?? 0));
    });
    let plane: ControlPlane | null;
    try {
      plane = alone ? null : await ControlPlane.join(environment, await identityOf(run), limits);
    } catch (error) {
      stopWatching();
      throw error;
    }
    ranks = new Ranks(environment, plane);
    ranks.#stopWatching = stopWatching;
    plane?.onAbort((error) => {
      ranks!.#group?.abort(error.message);
      ranks!.#endSoon(error);
    });
    return ranks;
  }

  /** Whether this is the rank that prints and writes the folder of the run. */
  get first(): boolean {
    return this.rank === 0;
  }

  /** How the ranks found each other; empty when there is only one. */
  get description(): string {
    if (!this.#plane) return '';
    const { launcher, masterAddress, masterPort } = this.#environment!;
    return `${this.worldSize} ranks, by the settings of ${launcher}, which meet at ${masterAddress}:${masterPort}`;
  }

  /** The device of this rank: of a machine's GPUs the one with its local rank, else the CPU with its part of the cores. */
  async openDevice(run: RankOptions): Promise<Device> {
    const { threads } = run;
    const name = await deviceOfRank(run, this.#environment, {
      // Threads are for the CPU: with them `auto` means it.
      hasCuda: async () => threads === null && (await hasCuda()),
      visibleDevices: process.env.CUDA_VISIBLE_DEVICES,
    });
    if (this.worldSize === 1) return openDevice(name, { threads: threads ?? undefined });
    const ranksHere = Number(process.env.LOCAL_WORLD_SIZE ?? 1);
    const share = process.env.GRPO_THREADS ? undefined : Math.max(1, Math.floor(availableParallelism() / ranksHere));
    return openDevice(name, { threads: threads ?? (name === 'cpu' ? share : undefined) });
  }

  /** Connects the devices of all ranks; undefined when there is only one. */
  async openGroup(device: Device, run: RankOptions): Promise<ProcessGroup | undefined> {
    const plane = this.#plane;
    if (!plane) return undefined;
    const { rank, worldSize, localRank } = this.#environment!;
    this.report('connecting');
    const options = { device, rank, worldSize, localRank, store: plane.store, timeoutSeconds: run.rankTimeout };
    // The others reach this rank by the network by which it reaches rank 0.
    const network = device.kind === 'cpu' ? (run.networkInterface ?? plane.localAddress) : undefined;
    const group = await openProcessGroup({ ...options, interface: network });
    this.#group = group;
    if (plane.failure) group.abort(plane.failure.message);
    return reportingGroup(group, (collective) => plane.report(`${this.#phase}: ${collective}`));
  }

  /** What rank 0 finds, for all ranks. */
  async fromFirst<T>(find: () => Promise<T>): Promise<T> {
    if (!this.#plane) return find();
    const key = `shared/${this.#shared++}`;
    if (this.first) {
      const value = await find();
      await this.#plane.store.set(key, new TextEncoder().encode(JSON.stringify(value)));
      return value;
    }
    return JSON.parse(new TextDecoder().decode(await this.#plane.store.get(key))) as T;
  }

  /** Says what this rank is doing, for the errors of the others if it dies. */
  report(activity: string): void {
    this.#phase = activity;
    this.#plane?.report(activity);
  }

  /** The work is done on this rank; waits for the others. */
  async leave(): Promise<void> {
    this.report('finishing');
    await this.#group?.close();
    await this.#plane?.leave();
  }

  /**
   * To be called with an error before anything is closed, since what is closed may wait for other ranks: tells them, and
   * gives the error to throw. That is the same on all ranks, but for the rank that it began at, which has its own.
   */
  async failed(error: unknown): Promise<unknown> {
    if (!this.#plane) return error;
    const echo = error instanceof CollectiveError || (error as GrpoError | null)?.code === 'GRPO_RANK_FAILED';
    const shared = await this.#plane.fail(error, { secondary: echo });
    const isOwn = shared.code === 'GRPO_RANK_FAILED' && shared.ranks.includes(this.rank);
    return isOwn ? error : shared;
  }

  async close(): Promise<void> {
    this.#stopWatching();
    // A group that is alive waits for the others when it closes; who comes here with one has failed.
    this.#group?.abort('this rank ends');
    await this.#group?.close().catch(() => {});
    await this.#plane?.close();
    if (this.#ending) clearTimeout(this.#ending);
  }

  #launcherGone(): void {
    const error = launcherGone(this.rank);
    if (this.#plane) void this.#plane.fail(error);
    else this.#endSoon(error);
  }

  /** A rank that waits for something else than the others, such as a reward, would not notice that the run is over. */
  #endSoon(error: GrpoError): void {
    this.#ending ??= setTimeout(() => endWith(error), endingTime).unref();
  }
}

function launcherGone(rank: number): RankFailedError {
  return new RankFailedError({
    code: 'GRPO_LAUNCHER_GONE',
    message: 'The launcher that started this process has ended without ending it',
    ranks: [rank],
    activity: null,
    exitCode: exitCodes.retryable,
  });
}

function endWith(error: GrpoError): never {
  process.stderr.write(`grpo: ${error.message}\n`);
  process.exit(exitCodeOf(error));
}

/** Where and with how much patience a machine computes may differ; what is computed may not. */
const ofTheMachine = new Set([
  ...[
    'device',
    'devices',
    'referenceDevices',
    'threads',
    'joinTimeout',
    'rankTimeout',
    'hungAfter',
    'networkInterface',
  ],
  ...['model', 'dataset', 'evalDataset', 'demonstrations'],
]);
const longestText = 100;

async function identityOf(run: Readonly<Record<string, unknown>>): Promise<RunIdentity> {
  const texts = Object.entries(run)
    .filter(([name]) => !ofTheMachine.has(name))
    .map(([name, value]) => [name, JSON.stringify(value) ?? 'null'] as const);
  const shorten = (text: string) => (text.length > longestText ? `${text.slice(0, longestText)}...` : text);
  return {
    version: packageVersion,
    configHash: (await hashText(JSON.stringify(texts))).slice(0, 16),
    config: Object.fromEntries(texts.map(([name, text]) => [name, shorten(text)])),
  };
}

async function hasCuda(): Promise<boolean> {
  return (await availableDevices()).some(({ kind, available }) => kind === 'cuda' && available);
}
