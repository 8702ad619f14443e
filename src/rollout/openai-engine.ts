import { deriveSeed } from '../data/random.js';
import { GrpoError, InvalidArgumentError, UnsupportedError } from '../errors.js';
import { JsonClient, type JsonClientOptions } from '../http/json-client.js';
import { Limiter } from '../http/limiter.js';
import { type FileSystem, fileSystem } from '../platform/files.js';
import type { Completion, GenerateOptions, RolloutEngine } from './engine.js';
import { checkOptions, checkPrompt, type GeneratingModel } from './request.js';
import { type RolloutServer, type RolloutServerKind, rolloutServerKinds, rolloutServers } from './rollout-servers.js';
import { StopStrings } from './stop-strings.js';

/** A way without files by which a server of kind `grpo` is given weights. In Node: `WeightBroadcast`. */
export interface WeightChannel {
  /** Resolves when the server has the policy's weights, under this version. */
  give(client: JsonClient, version: number): Promise<void>;
  close(): Promise<void>;
}

export interface OpenAIEngineOptions extends JsonClientOptions {
  /** Which program answers there: how it is given weights depends on it. */
  kind: RolloutServerKind;
  /** Address of the server, such as `http://127.0.0.1:8000`. */
  url: string;
  /** The model's name in requests. */
  model: string;
  /** The policy that is trained: its weights are given to the server. */
  policy: GeneratingModel & { save(folder: string, files?: FileSystem): Promise<void> };
  /**
   * The folder through which weights are given: `folder` as this program sees it, `serverFolder` as the server does
   * (default: the same). For kind `grpo` also a channel, which is closed with the engine. null: the server keeps the
   * weights that it has, which suits evaluation, but no training.
   */
  weights: { folder: string; serverFolder?: string } | WeightChannel | null;
  /** Most requests, a prompt each, at a time. Default 32. */
  concurrency?: number;
  files?: FileSystem;
}

/** The server answered with other weights than it was given. */
export class StaleWeightsError extends GrpoError {
  constructor(expected: number, got: number | null) {
    const what = got === null ? 'the weights that it started with' : `weights of version ${got}`;
    const message = `The rollout server used ${what}, expected version ${expected}: was it restarted, or given weights by another run?`;
    super('GRPO_STALE_WEIGHTS', message);
  }
}

/**
 * Generates on a server over HTTP: `grpo serve`, vLLM or SGLang. After each update it is given the new weights through a
 * shared folder or a channel. `docs/serving.md` says how to start each of them.
 */
export class OpenAIEngine implements RolloutEngine {
  readonly #options: OpenAIEngineOptions;
  readonly #server: RolloutServer;
  readonly #client: JsonClient;
  readonly #limiter: Limiter;
  readonly #running = new Set<Promise<unknown>>();
  #version = -1;
  /** The hand-over of weights in progress, or the last one; null before the first, and after one that failed. */
  #synced: Promise<void> | null = null;

  constructor(options: OpenAIEngineOptions) {
    const { kind, url, model, weights, concurrency = 32 } = options;
    if (!rolloutServerKinds.includes(kind)) throw new InvalidArgumentError('kind', rolloutServerKinds.join(', '), kind);
    if (typeof model !== 'string' || model === '') throw new InvalidArgumentError('model', 'a name', model);
    if (isChannel(weights)) {
      const hint = 'Give a folder that the server sees.';
      if (kind !== 'grpo') throw new UnsupportedError('A weight channel', `a rollout server of kind ${kind}`, hint);
    } else if (weights !== null && !weights?.folder) {
      throw new InvalidArgumentError('weights', 'a folder, a channel or null', weights);
    }
    this.#options = options;
    this.#server = rolloutServers[kind];
    this.#client = new JsonClient(url, options);
    this.#limiter = new Limiter(concurrency);
  }

  /** How often the weights have changed since the engine's first completions. */
  get version(): number {
    return Math.max(0, this.#version);
  }

  /** Gives the policy's weights to the server first if that has not happened yet. */
  async generate(promptIds: readonly Int32Array[], options: GenerateOptions): Promise<Completion[][]> {
    const { policy } = this.#options;
    const { n, sampling, stopTokenIds } = checkOptions(options, policy);
    new StopStrings(policy.tokenizer, options.stop ?? []);
    const limits = promptIds.map((prompt, p) => {
      const limit = Math.min(options.maxNewTokens, policy.config.maxPositionEmbeddings - prompt.length);
      checkPrompt(`prompts[${p}]`, prompt, policy.config, limit);
      return limit;
    });
    await this.#sync();
    const { temperature, topK, topP, minP } = sampling;
    const failed = new AbortController();
    const signal = options.signal ? AbortSignal.any([options.signal, failed.signal]) : failed.signal;
    const version = this.#version;
    const generating = Promise.all(
      promptIds.map((prompt, p) =>
        this.#limiter.run(() =>
          this.#complete(
            {
              model: this.#options.model,
              promptIds: [...prompt],
              n,
              maxNewTokens: limits[p]!,
              temperature,
              topK,
              topP,
              minP,
              seed: deriveSeed(options.seed ?? 0, (options.firstPrompt ?? 0) + p),
              stop: options.stop ?? [],
              stopTokenIds: [...stopTokenIds],
              ownStopTokenIds: policy.stopTokenIds,
            },
            version,
            signal,
          ),
        ),
      ),
    ).catch((error: unknown) => {
      // What the others still run is of no use any more.
      failed.abort(error);
      throw error;
    });
    this.#running.add(generating);
    return generating.finally(() => this.#running.delete(generating));
  }

  async weightsChanged(): Promise<void> {
    if (this.#options.weights === null) {
      throw new UnsupportedError(
        'Training',
        'an OpenAIEngine with weights null',
        'Give a folder that the server sees.',
      );
    }
    // A first generation that came later would give these weights anyway.
    if (this.#version >= 0) await this.#handOver();
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#running);
    await this.#synced?.catch(() => {});
    if (isChannel(this.#options.weights)) await this.#options.weights.close();
  }

  async #complete(request: Parameters<RolloutServer['complete']>[1], version: number, signal: AbortSignal) {
    const completions = await this.#server.complete(this.#client, request, signal);
    if (completions.length !== request.n) {
      throw new GrpoError('GRPO_ENGINE', `The server gave ${completions.length} completions, expected ${request.n}`);
    }
    return completions.map(({ version: told, ...completion }): Completion => {
      if (this.#options.weights === null) return { ...completion, ...(told == null ? {} : { version: told }) };
      const unknown = told === undefined || (told === null && this.#options.kind !== 'grpo');
      if (!unknown && told !== version) throw new StaleWeightsError(version, told);
      return { ...completion, version };
    });
  }

  /** Resolves when the server has the latest weights: those of the start, and those that it failed to take before, too. */
  async #sync(): Promise<void> {
    if (this.#options.weights !== null) await (this.#synced ?? this.#handOver());
  }

  #handOver(): Promise<void> {
    const previous = this.#synced;
    const handing = (async () => {
      await previous;
      // Completions under way are to be of one version from their first token to their last.
      await Promise.allSettled(this.#running);
      const { files = fileSystem(), policy, weights } = this.#options;
      const version = this.#version + 1;
      if (isChannel(weights)) {
        await weights.give(this.#client, version);
        this.#version = version;
        return;
      }
      const { folder, serverFolder = folder } = weights!;
      const name = `version-${version}`;
      await policy.save(`${folder}/${name}`, files);
      await this.#server.reload(this.#client, { folder: serverFolder, name, version });
      this.#version = version;
      if (version > 0) await files.remove(`${folder}/version-${version - 1}`);
    })();
    this.#synced = handing;
    handing.catch(() => {
      // The next call tries again instead of failing for what was.
      if (this.#synced === handing) this.#synced = null;
    });
    return handing;
  }
}

function isChannel(weights: OpenAIEngineOptions['weights']): weights is WeightChannel {
  return typeof weights === 'object' && weights !== null && 'give' in weights;
}
