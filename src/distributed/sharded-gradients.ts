import { InvalidArgumentError } from '../errors.js';
import type { GradientMemory, ParameterGroup, Parameters } from '../models/parameters.js';
import { Scope, type Tensor } from '../tensor.js';
import type { ProcessGroup } from './process-group.js';

/** The parameters of one entry of the order: those of a layer, say. */
interface Unit {
  /** Where they lie in the flat weights, and from which element on in the unit's memory. */
  runs: (ParameterGroup & { at: number })[];
  count: number;
  /** While backward adds to it, and until its sums have arrived. */
  memory: Tensor | null;
  views: Scope;
  exchanged: boolean;
}

/** Units whose sums may be on their way while backward fills the next one. */
const inFlight = 1;

/**
 * Gradients of which a rank keeps only its shard (ZeRO-2, arXiv:1910.02054, section 5.2). Those of a layer get memory when
 * backward first adds to them, go to the ranks that own them as soon as they are complete, and lose the memory again: beside
 * the shard there are those of two layers, and of an embedding that is the head too, which is complete last.
 *
 * The ranks exchange units in one fixed order, once a micro-batch; a rank that has none of its own sends zeros.
 */
export class ShardedGradients implements GradientMemory {
  /** [shard]: sums over the ranks, and over micro-batches, of this rank's shard. */
  readonly sums: Tensor;
  readonly #group: ProcessGroup;
  readonly #parameters: Parameters;
  readonly #order: readonly string[];
  readonly #units: readonly Unit[];
  readonly #arriving: Unit[] = [];
  readonly #complete = new Set<string>();

  /** `order`: how the names of parameters begin, in the order in which backward completes them (`gradientOrder`). */
  constructor(group: ProcessGroup, parameters: Parameters, order: readonly string[]) {
    this.#group = group;
    this.#parameters = parameters;
    this.#order = order;
    this.#units = order.map((prefix) => unitOf(parameters.groupsOf(prefix)));
    const covered = this.#units.reduce((sum, { count }) => sum + count, 0);
    if (covered !== parameters.count) {
      throw new InvalidArgumentError('order', `the names of all ${parameters.count} weights`, `${covered} weights`);
    }
    this.sums = parameters.device.zeros([parameters.shard(group.rank, group.worldSize).count]);
  }

  view(shape: readonly number[], offset: number): Tensor {
    const holds = (run: ParameterGroup) => offset >= run.offset && offset < run.offset + run.count;
    const unit = this.#units.find(({ runs }) => runs.some(holds))!;
    if (unit.exchanged) throw new InvalidArgumentError('backward', 'one pass a micro-batch', `a second at ${offset}`);
    const { offset: begin, at } = unit.runs.find(holds)!;
    return unit.views.track(this.#memoryOf(unit).view(shape, at + offset - begin));
  }

  /** Tells that backward has queued everything for the parameters whose names begin like this: an entry of the order. */
  complete(prefix: string): void {
    if (!this.#order.includes(prefix)) throw new InvalidArgumentError('prefix', this.#order.join(', '), prefix);
    this.#complete.add(prefix);
    for (const [i, unit] of this.#units.entries()) {
      if (!this.#complete.has(this.#order[i]!)) return;
      if (!unit.exchanged) this.#exchange(unit);
    }
  }

  /** Ends a micro-batch: exchanges what has not been exchanged. All ranks call it equally often. */
  finish(): void {
    for (const unit of this.#units) {
      if (!unit.exchanged) this.#exchange(unit);
    }
    for (const unit of this.#units) unit.exchanged = false;
    this.#complete.clear();
    this.#settle(0);
  }

  dispose(): void {
    for (const { views, memory } of this.#units) {
      views.dispose();
      memory?.dispose();
    }
    this.sums.dispose();
  }

  #memoryOf(unit: Unit): Tensor {
    if (!unit.memory) {
      this.#settle(inFlight);
      unit.memory = this.#parameters.device.zeros([unit.count]);
    }
    return unit.memory;
  }

  #exchange(unit: Unit): void {
    const memory = this.#memoryOf(unit);
    this.#pieces(unit, (owner, at, { count }) => {
      const piece = memory.view([count], at);
      this.#group.reduce(piece, owner);
      piece.dispose();
    });
    unit.views.dispose();
    unit.exchanged = true;
    this.#arriving.push(unit);
  }

  /** Adds what arrives to the shard, and frees its memory, until at most so many units are on their way. */
  #settle(most: number): void {
    const { device } = this.#parameters;
    const { rank, worldSize } = this.#group;
    const { offset: begin } = this.#parameters.shard(rank, worldSize);
    while (this.#arriving.length > most) {
      const unit = this.#arriving.shift()!;
      this.#pieces(unit, (owner, at, { offset, count }) => {
        if (owner !== rank) return;
        const [piece, sum] = [unit.memory!.view([count], at), this.sums.view([count], offset - begin)];
        device.run('add', { a: sum, b: piece, out: sum, alpha: 1, beta: 1 });
        piece.dispose();
        sum.dispose();
      });
      unit.memory!.dispose();
      unit.memory = null;
    }
  }

  /** The parts of a unit that belong to one rank each: the rank, where they begin in the unit's memory, and what they are. */
  #pieces({ runs }: Unit, visit: (owner: number, at: number, part: ParameterGroup) => void): void {
    const { worldSize } = this.#group;
    const { length } = this.#parameters.shard(0, worldSize);
    for (const run of runs) {
      const end = run.offset + run.count;
      for (let offset = run.offset; offset < end; ) {
        const owner = Math.floor(offset / length);
        const count = Math.min(end, (owner + 1) * length) - offset;
        visit(owner, run.at + offset - run.offset, { offset, count });
        offset += count;
      }
    }
  }
}

/** What lies side by side in the flat weights does so in the memory of the unit. */
function unitOf(groups: readonly ParameterGroup[]): Unit {
  const runs: Unit['runs'] = [];
  let total = 0;
  for (const { offset, count } of groups) {
    const last = runs.at(-1);
    if (last && last.offset + last.count === offset) last.count += count;
    else runs.push({ offset, count, at: total });
    total += count;
  }
  return { runs, count: total, memory: null, views: new Scope(), exchanged: false };
}
