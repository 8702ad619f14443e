import type { DType } from './backend/backend.js';
import { type Device, Scope, type Tensor } from './tensor.js';

/** A weight as the tape sees it: gradients are added to `grad`, a float32 tensor; null means frozen. */
export interface Weight {
  readonly value: Tensor;
  readonly grad: Tensor | null;
}

/** Memory of a gradient. A residual branch and its stream share one until somebody has to add to it. */
interface Gradient {
  tensor: Tensor;
  users: number;
}

/** A value that the tape computed and, while the tape runs backward, the gradient of the loss with respect to it. */
export class Variable {
  /** @internal */
  gradient: Gradient | null = null;

  /** @internal */
  constructor(
    readonly value: Tensor,
    /** Where a split value finds its gradient: a view of the gradient of the whole. */
    readonly gradientMemory: (() => Tensor) | null = null,
  ) {}
}

/** How the rows of a packed batch group into sequences, and how heads divide a row. */
export interface AttentionLayout {
  /** [B+1] i32. */
  sequenceOffsets: Tensor;
  /** [B] i32: the sequence that each one continues, or -1. */
  parents?: Tensor | null;
  /** Rows of the longest sequence, its parent's counted. */
  maxLength: number;
  headDim: number;
  /** Factor on the dot products, usually 1 / sqrt(headDim). */
  scale: number;
}

interface Entry {
  outputs: readonly Variable[];
  saved: readonly Tensor[];
  backward: () => void;
}

export interface TapeOptions {
  /** Remember what backward needs. Without it, a block frees all it made but its result. */
  record: boolean;
  /** Remember only the input of each block, and compute the block again in backward. */
  checkpoint?: boolean;
  /** dtype of activations and their gradients. Default f32. */
  dtype?: DType;
  /** Called by `backward` with the label of each `milestone` that it passes. */
  onMilestone?: ((label: string) => void) | null;
}

/**
 * Reverse-mode differentiation. Each operation computes its result, and leaves a closure that adds to the gradients of
 * its inputs; `backward` runs the closures last to first. A closure's outputs are freed right after it: whatever read
 * them came later on the tape and is done. The tape owns every value it makes.
 */
export class Tape {
  readonly device: Device;
  readonly #options: Required<TapeOptions>;
  readonly #entries: Entry[] = [];
  readonly #owned = new Scope();

  constructor(device: Device, options: TapeOptions) {
    this.device = device;
    this.#options = { checkpoint: false, dtype: 'f32', onMilestone: null, ...options };
  }

  get recording(): boolean {
    return this.#options.record;
  }

  /** Uninitialised memory of the tape, for a value that an operation outside this class will write. */
  empty(shape: readonly number[], dtype: DType = this.#options.dtype): Tensor {
    return this.#owned.track(this.device.empty(shape, dtype));
  }

  // ---- operations ---------------------------------------------------------------------------------------------------

  /** table[ids]: ids [N] -> [N,H]. */
  embedding(table: Weight, ids: Tensor): Variable {
    const out = this.empty([ids.shape[0]!, table.value.shape[1]!]);
    this.device.run('embedding', { table: table.value, ids, out });
    return this.#record(out, [], (gradOut) => {
      if (table.grad) this.device.run('embeddingBackward', { gradOut, ids, gradTable: table.grad });
    });
  }

  /** x weight^T + bias + residual: x [N,in], weight [out,in] -> [N,out]. */
  linear(x: Variable, weight: Weight, bias: Weight | null = null, residual: Variable | null = null): Variable {
    const out = this.empty([x.value.shape[0]!, weight.value.shape[0]!]);
    if (residual) this.device.run('copy', { in: residual.value, out });
    this.#matmul(x.value, weight.value, out, { transposeB: 1, accumulate: residual ? 1 : 0 }, bias?.value);
    return this.#record(out, [], (gradOut, variable) => {
      if (weight.grad) this.#matmul(gradOut, x.value, weight.grad, { transposeA: 1, accumulate: 1 });
      if (bias?.grad) this.device.run('columnSum', { in: gradOut, out: bias.grad });
      const { tensor, accumulate } = this.#accumulator(x);
      this.#matmul(gradOut, weight.value, tensor, { accumulate });
      if (residual) this.#passOn(variable, residual);
    });
  }

  /** Root-mean-square norm over groups of weight.length adjacent elements (a whole row, or each head of it). */
  rmsNorm(x: Variable, weight: Weight, epsilon: number): Variable {
    const out = this.empty(x.value.shape);
    const groups = x.value.size / weight.value.size;
    const inverseRms = this.recording ? this.empty([groups], 'f32') : null;
    this.device.run('rmsNorm', { in: x.value, weight: weight.value, out, inverseRms, epsilon });
    return this.#record(out, [inverseRms], (gradOut) => {
      const { tensor: gradIn, accumulate } = this.#accumulator(x);
      this.device.run('rmsNormBackward', {
        in: x.value,
        weight: weight.value,
        inverseRms: inverseRms!,
        gradOut,
        gradIn,
        gradWeight: weight.grad,
        accumulate,
      });
    });
  }

  /** Rotates x in place, so what made x must not need its value in backward (`linear` and `rmsNorm` do not). */
  rope(x: Variable, positions: Tensor, inverseFrequencies: Tensor, headDim: number): void {
    const rotate = (tensor: Tensor, backward: 0 | 1) =>
      this.device.run('rope', { in: tensor, positions, inverseFrequencies, out: tensor, headDim, backward });
    rotate(x.value, 0);
    this.#push([], [], () => {
      if (x.gradient) rotate(this.#exclusive(x), 1);
    });
  }

  /** Causal attention inside each packed sequence: queries [N,Q], keys and values [N,K] -> [N,Q]. */
  attention(queries: Variable, keys: Variable, values: Variable, layout: AttentionLayout): Variable {
    const out = this.empty(queries.value.shape);
    const [rows, width] = queries.value.shape as [number, number];
    const logSumExp = this.recording ? this.empty([rows, width / layout.headDim], 'f32') : null;
    const inputs = { queries: queries.value, keys: keys.value, values: values.value };
    this.device.run('attention', { ...inputs, out, logSumExp, ...layout });
    return this.#record(out, [logSumExp], (gradOut) => {
      const [gradQueries, gradKeys, gradValues] = this.#targets(queries, keys, values);
      this.device.run('attentionBackward', {
        ...inputs,
        out,
        logSumExp: logSumExp!,
        gradOut,
        gradQueries: gradQueries!.tensor,
        gradKeys: gradKeys!.tensor,
        gradValues: gradValues!.tensor,
        ...layout,
      });
      for (const target of [gradQueries!, gradKeys!, gradValues!]) target.finish();
    });
  }

  /** silu(gate) * up. */
  swiglu(gate: Variable, up: Variable): Variable {
    const out = this.empty(gate.value.shape);
    this.device.run('swiglu', { gate: gate.value, up: up.value, out });
    return this.#record(out, [], (gradOut) => {
      const [gradGate, gradUp] = this.#targets(gate, up);
      const inputs = { gate: gate.value, up: up.value, gradOut };
      this.device.run('swigluBackward', { ...inputs, gradGate: gradGate!.tensor, gradUp: gradUp!.tensor });
      gradGate!.finish();
      gradUp!.finish();
    });
  }

  /** x[indices]; the indices must differ from each other. */
  gatherRows(x: Variable, indices: Tensor): Variable {
    const out = this.empty([indices.shape[0]!, x.value.shape[1]!]);
    this.device.run('gatherRows', { in: x.value, indices, out });
    return this.#record(out, [], (gradOut) => {
      const [target] = this.#targets(x);
      this.device.run('fill', { out: target!.tensor, value: 0 });
      this.device.run('scatterRows', { in: gradOut, indices, out: target!.tensor });
      target!.finish();
    });
  }

  /** Views of adjacent columns. Nothing else may read x; each part's gradient is written into that of x. */
  split(x: Variable, widths: readonly number[]): Variable[] {
    const [rows, columns] = x.value.shape as [number, number];
    let offset = 0;
    const parts = widths.map((width) => {
      const begin = offset;
      offset += width;
      const part = (whole: Tensor) => whole.view([rows, width], begin, whole.rowStride);
      return new Variable(this.#owned.track(part(x.value)), () => part(this.#gradient(x).tensor));
    });
    if (offset !== columns) throw new RangeError(`split: widths add up to ${offset} of ${columns} columns`);
    this.#push(parts, [], () => {
      for (const part of parts) {
        if (!part.gradient) this.device.run('fill', { out: this.#gradient(part).tensor, value: 0 });
      }
    });
    return parts;
  }

  /** A value made by `empty`, as an input of further operations. No gradient flows through it. */
  constant(value: Tensor): Variable {
    return new Variable(value);
  }

  /**
   * A part of the model, from one variable to one variable, that nothing else reads from: a layer. When the tape does
   * not record, everything it owns but the result is freed afterwards, the input too. With `checkpoint` only the input
   * is remembered.
   */
  block(run: (tape: Tape, x: Variable) => Variable, x: Variable): Variable {
    if (!this.recording) {
      const out = run(this, x);
      this.#owned.keep(out.value);
      this.#owned.dispose();
      this.#owned.track(out.value);
      return out;
    }
    if (!this.#options.checkpoint) return run(this, x);
    const { dtype } = this.#options;
    const forward = new Tape(this.device, { record: false, dtype });
    let value: Tensor;
    try {
      value = this.#owned.track(forward.#owned.keep(run(forward, new Variable(x.value)).value));
    } finally {
      forward.dispose();
    }
    return this.#record(value, [], (gradOut) => {
      const again = new Tape(this.device, { record: true, dtype });
      const input = new Variable(x.value);
      try {
        again.backward(run(again, input), gradOut);
        const { tensor, users } = input.gradient!;
        if (x.gradient) this.#addTo(this.#exclusive(x), tensor);
        else x.gradient = { tensor: this.#owned.track(again.#owned.keep(tensor)), users };
      } finally {
        again.dispose();
      }
    });
  }

  /** Marks a point: `backward` reports the label when it has queued the gradients of all that comes later on the tape. */
  milestone(label: string): void {
    const { onMilestone } = this.#options;
    if (onMilestone) this.#push([], [], () => onMilestone(label));
  }

  // ---- backward -----------------------------------------------------------------------------------------------------

  /** Adds the gradients of all weights, given that of `output`. Frees everything on the way: a tape runs back once. */
  backward(output: Variable, gradient: Tensor): void {
    // The caller's tensor counts as a second user, so that nothing is added to it.
    output.gradient = { tensor: this.#owned.track(gradient.view(gradient.shape)), users: 2 };
    for (let entry = this.#entries.pop(); entry; entry = this.#entries.pop()) {
      if (entry.outputs.length === 0 || entry.outputs.some((v) => v.gradient)) entry.backward();
      for (const variable of entry.outputs) {
        this.#free(variable.value);
        if (variable.gradient && --variable.gradient.users === 0) this.#free(variable.gradient.tensor);
        variable.gradient = null;
      }
      for (const tensor of entry.saved) this.#free(tensor);
    }
  }

  /** Frees everything that the tape still owns. */
  dispose(): void {
    this.#entries.length = 0;
    this.#owned.dispose();
  }

  // ---- what the operations share --------------------------------------------------------------------------------------

  #record(
    value: Tensor,
    saved: readonly (Tensor | null)[],
    backward: (gradOut: Tensor, output: Variable) => void,
  ): Variable {
    const output = new Variable(value);
    this.#push(
      [output],
      saved.filter((tensor) => tensor !== null),
      () => backward(output.gradient!.tensor, output),
    );
    return output;
  }

  #push(outputs: readonly Variable[], saved: readonly Tensor[], backward: () => void): void {
    if (this.recording) this.#entries.push({ outputs, saved, backward });
  }

  /** The gradient of x, of undefined content if it has none yet. */
  #gradient(x: Variable): Gradient {
    x.gradient ??= {
      tensor: x.gradientMemory ? this.#owned.track(x.gradientMemory()) : this.empty(x.value.shape),
      users: 1,
    };
    return x.gradient;
  }

  /** Where an operation that can add to its output puts the gradient of x. */
  #accumulator(x: Variable): { tensor: Tensor; accumulate: 0 | 1 } {
    const accumulate = x.gradient ? 1 : 0;
    return { tensor: accumulate ? this.#exclusive(x) : this.#gradient(x).tensor, accumulate };
  }

  /** Where an operation that overwrites its outputs puts the gradients of its inputs; `finish` adds where one existed. */
  #targets(...inputs: Variable[]): { tensor: Tensor; finish: () => void }[] {
    return inputs.map((x) => {
      if (!x.gradient) return { tensor: this.#gradient(x).tensor, finish: () => {} };
      const tensor = this.empty(x.value.shape);
      const finish = () => {
        this.#addTo(this.#exclusive(x), tensor);
        this.#free(tensor);
      };
      return { tensor, finish };
    });
  }

  /** The gradient of x in memory that nothing else uses. */
  #exclusive(x: Variable): Tensor {
    const gradient = x.gradient!;
    if (gradient.users > 1) {
      gradient.users--;
      x.gradient = { tensor: this.empty(x.value.shape), users: 1 };
      this.device.run('copy', { in: gradient.tensor, out: x.gradient.tensor });
    }
    return x.gradient!.tensor;
  }

  /** The gradient of `output` is also one of `input`: shared if it is the first, else added. */
  #passOn(output: Variable, input: Variable): void {
    const gradient = output.gradient!;
    if (input.gradient) {
      this.#addTo(this.#exclusive(input), gradient.tensor);
    } else if (input.gradientMemory) {
      this.device.run('copy', { in: gradient.tensor, out: this.#gradient(input).tensor });
    } else {
      gradient.users++;
      input.gradient = gradient;
    }
  }

  #addTo(sum: Tensor, term: Tensor): void {
    this.device.run('add', { a: sum, b: term, out: sum, alpha: 1, beta: 1 });
  }

  #matmul(
    a: Tensor,
    b: Tensor,
    out: Tensor,
    flags: { transposeA?: 0 | 1; transposeB?: 0 | 1; accumulate?: 0 | 1 },
    bias?: Tensor,
  ): void {
    this.device.run('matmul', { a, b, bias, out, transposeA: 0, transposeB: 0, accumulate: 0, ...flags });
  }

  #free(tensor: Tensor): void {
    this.#owned.keep(tensor).dispose();
  }
}
