import { CollectiveError, DisposedError, InvalidArgumentError } from '../errors.js';
import type { Device, Tensor } from '../tensor.js';
import { type CollectiveName, checkCollective } from './check-collective.js';
import type { CollectiveStatistics, PendingCollective, ProcessGroup } from './process-group.js';

const done: PendingCollective = { wait: () => {} };

/** The group of a run of one process: every collective gives what it would with others, were there any. */
export function singleProcessGroup(device: Device): ProcessGroup {
  return new SingleProcessGroup(device);
}

class SingleProcessGroup implements ProcessGroup {
  readonly rank = 0;
  readonly worldSize = 1;
  readonly localRank = 0;
  readonly engine = 'single';
  failure: CollectiveError | null = null;
  readonly #device: Device;
  #collectives = 0;
  #closed = false;

  constructor(device: Device) {
    this.#device = device;
  }

  allReduce(tensor: Tensor): PendingCollective {
    return this.#run('allReduce', tensor, tensor);
  }

  reduceScatter(input: Tensor, output: Tensor): PendingCollective {
    return this.#run('reduceScatter', input, output);
  }

  allGather(input: Tensor, output: Tensor): PendingCollective {
    return this.#run('allGather', input, output);
  }

  broadcast(tensor: Tensor, root: number): PendingCollective {
    return this.#rooted('broadcast', tensor, root);
  }

  reduce(tensor: Tensor, root: number): PendingCollective {
    return this.#rooted('reduce', tensor, root);
  }

  async barrier(): Promise<void> {
    this.#check();
    await this.#device.synchronize();
  }

  async allGatherValues<T>(value: T): Promise<T[]> {
    this.#check();
    return [JSON.parse(JSON.stringify(value)) as T];
  }

  abort(reason: string): void {
    this.failure ??= new CollectiveError(
      {
        reason: 'aborted',
        rank: 0,
        worldSize: 1,
        peer: undefined,
        collective: 'abort',
        sequence: this.#collectives,
        size: '',
      },
      reason,
    );
  }

  statistics(): CollectiveStatistics {
    return { collectives: this.#collectives, bytesSent: 0, communicationSeconds: 0, waitSeconds: 0 };
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #rooted(name: 'broadcast' | 'reduce', tensor: Tensor, root: number): PendingCollective {
    if (root !== 0) throw new InvalidArgumentError('root', 'rank 0, the only one', root);
    return this.#run(name, tensor, tensor);
  }

  #run(name: CollectiveName, input: Tensor, output: Tensor): PendingCollective {
    checkCollective(name, input, output, 1, this.#device);
    this.#check();
    this.#collectives++;
    if (input.storage === output.storage && input.byteOffset === output.byteOffset) return done;
    const [from, to] = [input.view([input.size]), output.view([output.size])];
    this.#device.run('copy', { in: from, out: to });
    from.dispose();
    to.dispose();
    return done;
  }

  #check(): void {
    if (this.#closed) throw new DisposedError('A process group');
    if (this.failure) throw this.failure;
  }
}
