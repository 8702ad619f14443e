import { GrpoError, InvalidArgumentError } from '../errors.js';
import type { ParameterGroup, Parameters } from '../models/parameters.js';
import type { ProcessGroup } from './process-group.js';

export interface GradientBucketOptions {
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
  readonly #group: ProcessGroup;
  readonly #parameters: Parameters;
  readonly #order: readonly string[];
  readonly #ready: readonly number[];
  readonly #complete = new Set<string>();
  #started = 0;

  /** `order`: how the names of parameters begin, in the order in which backward completes them (`gradientOrder`). */
  constructor(
    group: ProcessGroup,
    parameters: Parameters,
    order: readonly string[],
    { bucketBytes = 4 * 2 ** 20 }: GradientBucketOptions = {},
  ) {
    if (!(bucketBytes >= 4)) throw new InvalidArgumentError('bucketBytes', '4 or more', bucketBytes);
    this.#group = group;
    this.#parameters = parameters;
    this.#order = order;
    const buckets = cut(parameters, order, Math.floor(bucketBytes / 4));
    this.buckets = buckets.map(({ offset, count }) => ({ offset, count }));
    this.#ready = buckets.map(({ ready }) => ready);
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
    const bucket = gradients.view([count], offset);
    this.#group.allReduce(bucket);
    bucket.dispose();
  }
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
