import { realpath } from 'node:fs/promises';
import { isAbsolute, relative, resolve, sep } from 'node:path';
import { GrpoError } from '../errors.js';
import { CausalLM } from '../models/causal-lm.js';
import { DecodeScheduler, type DecodeSchedulerOptions, QueueFullError } from '../rollout/decode-scheduler.js';
import { ApiError } from './api-error.js';
import { type GroupRequest, WeightReceiver } from './weight-receiver.js';

export interface ServedModelOptions {
  name: string;
  /** The only folder that weights are reloaded from; null: none. */
  weightsDir: string | null;
  /**
   * Whether trainers may give weights by broadcast. A text is the network interface or address by which they reach this
   * machine; with true it is the one at which they ask. Default false.
   */
  weightsBroadcast?: boolean | string;
  scheduler?: DecodeSchedulerOptions;
}

/** A policy with its scheduler, whose weights can be replaced between two completions. */
export class ServedModel {
  readonly policy: CausalLM;
  readonly name: string;
  readonly scheduler: DecodeScheduler;
  readonly #weightsDir: string | null;
  readonly #receiver: WeightReceiver | null;
  /** Changes of the weights come one after another. */
  #changing: Promise<unknown> = Promise.resolve();
  #version: number | null = null;
  readonly #maxQueue: number;
  #scoring = 0;
  #lastScore: Promise<unknown> = Promise.resolve();

  constructor(policy: CausalLM, { name, weightsDir, weightsBroadcast = false, scheduler }: ServedModelOptions) {
    this.policy = policy;
    this.name = name;
    this.#weightsDir = weightsDir;
    const network = typeof weightsBroadcast === 'string' ? weightsBroadcast : undefined;
    this.#receiver = weightsBroadcast === false ? null : new WeightReceiver(policy.parameters, network);
    this.#maxQueue = scheduler?.maxQueue ?? 1024;
    this.scheduler = new DecodeScheduler(policy, scheduler);
  }

  /** What the last change said that the weights are; null before the first. */
  get version(): number | null {
    return this.#version;
  }

  /**
   * Log-probs of a text's tokens at temperature 1, the first one's, which nothing predicts, null; and whose they are.
   * One text at a time, so that waiting ones take no memory of the device.
   */
  async score(ids: Int32Array): Promise<{ logProbs: (number | null)[]; version: number | null }> {
    if (this.#scoring >= this.#maxQueue) throw new QueueFullError(this.#scoring, this.#maxQueue);
    this.#scoring++;
    const previous = this.#lastScore;
    const score = (async () => {
      await previous.catch(() => {});
      const version = this.#version;
      const sequence = { promptIds: ids.slice(0, 1), completionIds: ids.slice(1) };
      const [logProbs] = await this.policy.logProbs([sequence]);
      return { logProbs: [null, ...logProbs!], version };
    })();
    this.#lastScore = score;
    return score.finally(() => this.#scoring--);
  }

  /**
   * Takes the weights of a model folder inside `weightsDir`. Completions that run are ended with the old weights first;
   * those that wait get the new ones. A folder that cannot be used changes nothing.
   */
  async reload(path: string, version: number): Promise<void> {
    const folder = await this.#allowed(path);
    const reloading = this.#change(async () => {
      const { device, parameters } = this.policy;
      const loaded = await CausalLM.load(folder, { device, dtype: parameters.dtype as 'f32' | 'bf16' | 'f16' });
      try {
        await this.scheduler.whilePaused(async () => {
          parameters.copyFrom(loaded.parameters);
          this.#version = version;
          await device.synchronize();
        });
      } finally {
        loaded.dispose();
      }
    });
    await reloading.catch((error: unknown) => {
      if (error instanceof GrpoError)
        throw new ApiError(400, `path: the weights cannot be used: ${error.message}`, 'path');
      throw error;
    });
  }

  /** Begins to meet a trainer that will give weights by broadcast: `WeightReceiver.meet`. */
  async meet(request: GroupRequest, localAddress: string): Promise<Uint8Array> {
    return this.#broadcasts().meet(request, localAddress);
  }

  /** Takes the weights that the trainer of a group sends, as `reload` does those of a folder. */
  async receive(group: string, version: number, signal: AbortSignal): Promise<void> {
    const receiver = this.#broadcasts();
    await this.#change(() =>
      this.scheduler.whilePaused(async () => {
        const { device, parameters } = this.policy;
        const weights = await receiver.receive(group, signal);
        device.run('copy', { in: weights, out: parameters.flat });
        weights.dispose();
        this.#version = version;
        await device.synchronize();
      }),
    );
  }

  async close(): Promise<void> {
    await this.#receiver?.close();
    await this.#changing.catch(() => {});
    await this.#lastScore.catch(() => {});
    await this.scheduler.close();
  }

  #change(work: () => Promise<void>): Promise<void> {
    const changing = this.#changing.catch(() => {}).then(work);
    this.#changing = changing;
    return changing;
  }

  #broadcasts(): WeightReceiver {
    if (this.#receiver) return this.#receiver;
    throw new ApiError(403, 'Weights are not taken by broadcast: the server was started without --weights-broadcast');
  }

  /** The folder, if it lies inside `weightsDir` after links are followed. */
  async #allowed(path: string): Promise<string> {
    if (this.#weightsDir === null) {
      throw new ApiError(403, 'Weights are not reloaded: the server was started without --weights-dir', 'path');
    }
    const refuse = () => new ApiError(400, 'path: must be a model folder inside the folder of --weights-dir', 'path');
    const root = await realpath(this.#weightsDir);
    const folder = await realpath(resolve(root, path)).catch(() => null);
    if (folder === null) throw refuse();
    const inside = relative(root, folder);
    if (inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside)) throw refuse();
    return folder;
  }
}
