import type { DType } from '../backend/backend.js';
import { GrpoError, InvalidArgumentError } from '../errors.js';
import { type Device, elementCount, type Tensor } from '../tensor.js';

/** The name (as Hugging Face has it), shape and kind of one weight. */
export interface ParameterSpec {
  name: string;
  shape: readonly number[];
  /** Whether weight decay applies: true for matrices, false for norms and biases. */
  decay: boolean;
}

/** A weight: a view of the flat weights and, while gradients are enabled, a view of the flat gradients. */
export interface Parameter {
  readonly name: string;
  readonly value: Tensor;
  /** float32; backward passes add to it. */
  readonly grad: Tensor | null;
}

/** A run of elements of the flat tensors. */
export interface ParameterGroup {
  offset: number;
  count: number;
}

/**
 * Elements of memory behind the flat tensors, so that they can be cut into equal parts for up to 2,048 ranks, each part at
 * a multiple of 8 elements.
 */
const padding = 8 * 2048;

/** Elements of the part of a rank when `count` are cut into equal parts. */
export function shardLength(count: number, worldSize: number): number {
  return worldSize === 1 ? count : Math.ceil(count / worldSize / 8) * 8;
}

/** Memory of gradients that are not whole at any time. */
export interface GradientMemory {
  /** float32, for the gradients of elements of the flat weights from `offset` on; what was not added to is zero. */
  view(shape: readonly number[], offset: number): Tensor;
}

type Entry = Parameter & ParameterGroup;

/**
 * All weights of a model in one flat tensor of the model's dtype, so that the optimiser, the gradient norm and the
 * exchange of gradients are one operation each. The weights with decay come first, in the order given.
 */
export class Parameters implements Iterable<Parameter> {
  readonly device: Device;
  /** [P], in the model's dtype. */
  readonly flat: Tensor;
  readonly groups: { readonly decay: ParameterGroup; readonly noDecay: ParameterGroup };
  readonly #entries = new Map<string, Entry>();
  readonly #spans = new Map<string, Entry>();
  #gradients: Tensor | null = null;
  #gradientMemory: GradientMemory | null = null;
  readonly #gradientViews = new Map<string, Tensor>();

  /** The content is undefined until it is written: `value.write` of each, or `copyFrom`. */
  constructor(device: Device, dtype: DType, specs: readonly ParameterSpec[]) {
    const ordered = [...specs.filter((s) => s.decay), ...specs.filter((s) => !s.decay)];
    const count = ordered.reduce((sum, s) => sum + elementCount(s.shape), 0);
    this.device = device;
    this.flat = padded(device, count, dtype);
    let offset = 0;
    let decayed = 0;
    for (const { name, shape, decay } of ordered) {
      const size = elementCount(shape);
      this.#entries.set(name, this.#entryAt(name, shape, offset, size));
      offset += size;
      if (decay) decayed = offset;
    }
    this.groups = { decay: { offset: 0, count: decayed }, noDecay: { offset: decayed, count: count - decayed } };
  }

  /** Number of weights. */
  get count(): number {
    return this.flat.size;
  }

  get dtype(): DType {
    return this.flat.dtype;
  }

  /** float32 [P], laid out as `flat`; null while the parameters are frozen, or their gradients lie elsewhere. */
  get gradients(): Tensor | null {
    return this.#gradients;
  }

  get frozen(): boolean {
    return this.#gradients === null && this.#gradientMemory === null;
  }

  /**
   * The part of the flat tensors that falls to a rank when they are cut into equal parts, and how long these are. The last
   * parts may be shorter than that, or empty; behind them is memory, but no weight.
   */
  shard(rank: number, worldSize: number): ParameterGroup & { length: number } {
    if (worldSize * 8 > padding) throw new InvalidArgumentError('worldSize', `at most ${padding / 8} ranks`, worldSize);
    const length = shardLength(this.count, worldSize);
    const offset = Math.min(this.count, rank * length);
    return { offset, count: Math.min(length, this.count - offset), length };
  }

  /** The parameters by themselves, without spans. */
  [Symbol.iterator](): IterableIterator<Parameter> {
    return this.#entries.values();
  }

  get(name: string): Parameter {
    return this.#entry(name);
  }

  /** Where the parameters whose names begin like this lie in the flat tensors, in the order in which they lie there. */
  groupsOf(prefix: string): ParameterGroup[] {
    const entries = [...this.#entries.values()].filter(({ name }) => name.startsWith(prefix));
    return entries.map(({ offset, count }) => ({ offset, count }));
  }

  /** Several parameters that lie one after another and have rows of one length, as one: [sum of rows, columns]. */
  span(names: readonly string[]): Parameter {
    const key = names.join('+');
    const known = this.#spans.get(key);
    if (known) return known;
    const parts = names.map((name) => this.#entry(name));
    const first = parts[0]!;
    const count = parts.reduce((sum, p) => sum + p.count, 0);
    const adjacent = parts.every((p, i) => i === 0 || p.offset === parts[i - 1]!.offset + parts[i - 1]!.count);
    if (!adjacent) throw new InvalidArgumentError('names', 'parameters that lie one after another', names);
    const columns = first.value.shape.slice(1);
    const shape = [count / elementCount(columns), ...columns];
    const span = this.#entryAt(key, shape, first.offset, count);
    this.#spans.set(key, span);
    return span;
  }

  /** Allocates the gradients, all zero, unless they lie in `memory`. Without this the parameters are frozen. */
  enableGradients(memory: GradientMemory | null = null): void {
    if (memory) {
      this.freeze();
      this.#gradientMemory = memory;
    } else if (!this.#gradients) {
      this.#gradientMemory = null;
      this.#gradients = padded(this.device, this.count, 'f32');
      this.zeroGradients();
    }
  }

  /** Frees the gradients. */
  freeze(): void {
    for (const view of this.#gradientViews.values()) view.dispose();
    this.#gradientViews.clear();
    this.#gradients?.dispose();
    this.#gradients = null;
    this.#gradientMemory = null;
  }

  zeroGradients(): void {
    if (!this.#gradients) throw new GrpoError('GRPO_FROZEN', 'zeroGradients: the parameters are frozen');
    this.device.run('fill', { out: this.#gradients, value: 0 });
  }

  /** Takes the weights of another model of the same layout, converting between dtypes. */
  copyFrom(other: Parameters): void {
    this.requireLayout('copyFrom', other.layout());
    this.device.run('copy', { in: other.flat, out: this.flat });
  }

  /** Names and shapes, such as `model.norm.weight[64]`, in the order in which they lie in the flat tensor. */
  layout(): string[] {
    return [...this].map(({ name, value }) => `${name}[${value.shape.join(',')}]`);
  }

  /** Throws an `InvalidArgumentError` for `what`, with the first parameter that differs, unless the layouts are the same. */
  requireLayout(what: string, theirs: readonly string[]): void {
    const mine = this.layout();
    const at = Array.from({ length: Math.max(mine.length, theirs.length) }).findIndex((_, i) => mine[i] !== theirs[i]);
    if (at >= 0) throw new InvalidArgumentError(what, `parameters with ${mine[at] ?? 'no more'}`, theirs[at]);
  }

  dispose(): void {
    for (const entries of [this.#entries, this.#spans]) for (const { value } of entries.values()) value.dispose();
    this.flat.dispose();
    this.freeze();
  }

  #entryAt(name: string, shape: readonly number[], offset: number, count: number): Entry {
    const gradient = () => this.#gradient(name, shape, offset);
    return {
      ...{ name, value: this.flat.view(shape, offset), offset, count },
      get grad() {
        return gradient();
      },
    };
  }

  #gradient(name: string, shape: readonly number[], offset: number): Tensor | null {
    if (this.#gradientMemory) return this.#gradientMemory.view(shape, offset);
    if (!this.#gradients) return null;
    const known = this.#gradientViews.get(name) ?? this.#gradients.view(shape, offset);
    this.#gradientViews.set(name, known);
    return known;
  }

  #entry(name: string): Entry {
    const entry = this.#entries.get(name);
    if (!entry) throw new InvalidArgumentError('name', 'the name of a parameter', name);
    return entry;
  }
}

/** A tensor [count] in a larger memory, which is zero where nothing else writes. */
function padded(device: Device, count: number, dtype: DType): Tensor {
  const whole = device.empty([count + padding], dtype);
  const rest = whole.view([padding], count);
  device.run('fill', { out: rest, value: 0 });
  rest.dispose();
  const tensor = whole.view([count]);
  whole.dispose();
  return tensor;
}
