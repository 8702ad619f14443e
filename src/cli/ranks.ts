import { availableParallelism } from 'node:os';
import { availableDevices, openDevice } from '../backend/open-device.js';
import { ControlPlane } from '../distributed/control-plane.js';
import { exitCodeOf } from '../distributed/exit-codes.js';
import { type LaunchEnvironment, resolveLaunchEnvironment } from '../distributed/launch-environment.js';
import { openProcessGroup } from '../distributed/open-process-group.js';
import type { ProcessGroup } from '../distributed/process-group.js';
import { CollectiveError } from '../errors.js';
import type { Device } from '../tensor.js';
import { hashText } from '../trainer/hash.js';
import { packageVersion } from './version.js';

/** What of a run's options concerns the ranks. */
export interface RankOptions {
  device: string;
  threads: number | null;
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
    if (!environment || environment.worldSize === 1) return new Ranks(environment, null);
    const config = Object.fromEntries(Object.entries(run).map(([name, value]) => [name, JSON.stringify(value) ?? '']));
    const configHash = await hashText(JSON.stringify(config));
    const heartbeat = Math.min(2, run.hungAfter / 4);
    const identity = { version: packageVersion, configHash, config };
    const plane = await ControlPlane.join(environment, identity, { hungAfter: run.hungAfter, heartbeat });
    const ranks = new Ranks(environment, plane);
    // A rank that waits for something else than the others, such as a reward, would not notice.
    plane.onAbort((error) => setTimeout(() => process.exit(exitCodeOf(error)), endingTime).unref());
    return ranks;
  }

  /** Whether this is the rank that prints and writes the folder of the run. */
  get first(): boolean {
    return this.rank === 0;
  }

  /** The device of this rank: of a machine's GPUs the one with its local rank, else the CPU with its part of the cores. */
  async openDevice({ device, threads }: RankOptions): Promise<Device> {
    if (this.worldSize === 1) return openDevice(device, { threads: threads ?? undefined });
    const { localRank } = this.#environment!;
    const cuda = device === 'cuda' || (device === 'auto' && (await hasCuda()));
    const name = cuda ? `cuda:${localRank}` : device === 'auto' ? 'cpu' : device;
    const ranksHere = Number(process.env.LOCAL_WORLD_SIZE ?? 1);
    const share = Math.max(1, Math.floor(availableParallelism() / ranksHere));
    return openDevice(name, { threads: threads ?? (name === 'cpu' ? share : undefined) });
  }

  /** Connects the devices of all ranks; undefined when there is only one. */
  async openGroup(device: Device, run: RankOptions): Promise<ProcessGroup | undefined> {
    if (!this.#plane) return undefined;
    const { rank, worldSize, localRank } = this.#environment!;
    const plane = this.#plane;
    const options = { device, rank, worldSize, localRank, store: plane.store, timeoutSeconds: run.rankTimeout };
    const group = await openProcessGroup({ ...options, interface: run.networkInterface ?? undefined });
    plane.onAbort((error) => group.abort(error.message));
    this.#group = group;
    return group;
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
    this.#plane?.report(activity);
  }

  /** Runs the work of this rank. When it fails, all ranks end with the same error. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (!this.#plane) return work();
    try {
      const result = await work();
      await this.#group?.close();
      await this.#plane.leave();
      return result;
    } catch (error) {
      const failure = await this.#plane.fail(error, { secondary: error instanceof CollectiveError });
      await this.#group?.close().catch(() => {});
      await this.#plane.close();
      throw failure;
    }
  }
}

async function hasCuda(): Promise<boolean> {
  return (await availableDevices()).some(({ kind, available }) => kind === 'cuda' && available);
}
