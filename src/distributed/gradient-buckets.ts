import { GrpoError, InvalidArgumentError } from '../errors.js';
import type { ParameterGroup, Parameters } from '../models/parameters.js';
import type { ProcessGroup } from './process-group.js';

export interface GradientBucketOptions {
  /**
   * `all-reduce`: every rank gets the sum of all gradients. `reduce-scatter`: a rank gets that of its `shards`, at half the
   * traffic; what the other places hold afterwards is undefined.
   */
  mode?: 'all-reduce' | 'reduce-scatter';
  /** Bytes of a bucket: smaller ones start earlier, larger ones cost less each. Default 4 MiB. */
  bucketBytes?: number;
}

interface Bucket extends ParameterGroup {
  /** How many entries of the order must be complete before the bucket is. */
  ready: number;
}

/**
 * Adds up the gradients of all ranks, a bucket at a time, each as soon as the backward pass has queued its last
 * contribution, so that communication runs beside the rest of the pass. A bucket is a run of elements of the flat
 * gradients and does not follow the bounds of parameters.
 *
 * Buckets are started in one fixed order on every rank, whatever order the rank finished in, so that a rank that had
 * nothing to compute only calls `finish`.
 */
export class GradientBuckets {
  /** In the order in which they are started. */
  readonly buckets: readonly ParameterGroup[];
  /** The elements whose sums this rank gets: all of them with `all-reduce`. */
  readonly shards: readonly ParameterGroup[];
  readonly #group: ProcessGroup;
  readonly #parameters: Parameters;
  readonly #order: readonly string[];
  readonly #mode: 'all-reduce' | 'reduce-scatter';
  readonly #ready: readonly number[];
  readonly #complete = new Set<string>();
  #started = 0;

  /** `order`: how the names of parameters begin, in the order in which backward completes them (`gradientOrder`). */
  constructor(
    group: ProcessGroup,
    parameters: Parameters,
    order: readonly string[],
    { mode = 'all-reduce', bucketBytes = 4 * 2 ** 20 }: GradientBucketOptions = {},
  ) {
    if (!(bucketBytes >= 4)) throw new InvalidArgumentError('bucketBytes', '4 or more', bucketBytes);
    if (mode !== 'all-reduce' && mode !== 'reduce-scatter') {
      throw new InvalidArgumentError('mode', 'all-reduce or reduce-scatter', mode);
    }
    this.#group = group;
    this.#parameters = parameters;
    this.#order = order;
    this.#mode = mode;
    const { worldSize, rank } = group;
    const elements = Math.max(1, Math.floor(bucketBytes / 4 / worldSize)) * worldSize;
    const buckets = cut(parameters, order, elements);
    this.buckets = buckets.map(({ offset, count }) => ({ offset, count }));
    this.#ready = buckets.map(({ ready }) => ready);
    this.shards = mode === 'all-reduce' ? this.buckets : this.buckets.flatMap((b) => shardOf(b, worldSize, rank));
  }

  /** Tells that backward has queued everything for the parameters whose names begin like this: an entry of the order. */
  complete(prefix: string): void {
    if (!this.#order.includes(prefix)) throw new InvalidArgumentError('prefix', this.#order.join(', '), prefix);
    this.#complete.add(prefix);
    let reached = this.#order.findIndex((entry) => !this.#complete.has(entry));
    if (reached < 0) reached = this.#order.length;
    this.#start(reached);
  }

  /**
   * Starts what has not been started. Operations on the gradients that are queued later see the sums; a failure shows
   * where their values are read. The next backward pass begins anew.
   */
  finish(): void {
    this.#start(this.#order.length);
    this.#complete.clear();
    this.#started = 0;
  }

  #start(reached: number): void {
    while (this.#started < this.buckets.length && this.#ready[this.#started]! <= reached) {
      this.#exchange(this.buckets[this.#started]!);
      this.#started++;
    }
  }

  #exchange({ offset, count }: ParameterGroup): void {
    const { gradients } = this.#parameters;
    if (!gradients) throw new GrpoError('GRPO_FROZEN', 'GradientBuckets: the parameters are frozen');
    const { worldSize, rank } = this.#group;
    const part = (at: number, length: number) => gradients.view([length], at);
    const all = this.#mode === 'all-reduce' ? count : count % worldSize;
    const scattered = count - all;
    const views = [part(offset, scattered), part(offset + (scattered / worldSize) * rank, scattered / worldSize)];
    if (scattered > 0) this.#group.reduceScatter(views[0]!, views[1]!);
    const rest = part(offset + scattered, all);
    if (all > 0) this.#group.allReduce(rest);
    for (const view of [...views, rest]) view.dispose();
  }
}

/** The part of a bucket that a rank gets of a reduce-scatter; what cannot be divided goes to the last rank. */
function shardOf({ offset, count }: ParameterGroup, worldSize: number, rank: number): ParameterGroup[] {
  const share = Math.floor(count / worldSize);
  const begin = share * rank;
  const end = rank === worldSize - 1 ? count : begin + share;
  return end > begin ? [{ offset: offset + begin, count: end - begin }] : [];
}

/** Cuts the flat gradients into buckets of this many elements, those first that are complete first. */
function cut(parameters: Parameters, order: readonly string[], elements: number): Bucket[] {
  const ranges = order.flatMap((prefix, i) =>
    parameters.groupsOf(prefix).map(({ offset, count }) => ({ offset, end: offset + count, ready: i + 1 })),
  );
  const covered = ranges.reduce((sum, { offset, end }) => sum + end - offset, 0);
  if (covered !== parameters.count) {
    throw new InvalidArgumentError('order', `the names of all ${parameters.count} weights`, `${covered} weights`);
  }
  const buckets: Bucket[] = [];
  for (let offset = 0; offset < parameters.count; offset += elements) {
    const count = Math.min(elements, parameters.count - offset);
    const within = ranges.filter((range) => range.offset < offset + count && range.end > offset);
    buckets.push({ offset, count, ready: Math.max(...within.map(({ ready }) => ready)) });
  }
  return buckets.sort((a, b) => a.ready - b.ready || b.offset - a.offset);
}
