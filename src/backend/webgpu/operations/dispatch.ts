import type { OperationArguments, OperationName, TensorView } from '../../backend.js';

/** One run of a shader. */
export interface Dispatch {
  /** The WGSL files that make up the shader, without `.wgsl`; the last has the entry point. */
  sources: readonly string[];
  entry?: string;
  /** Reductions (kernels/wgsl/reduce.wgsl) over constants LANES of THREADS threads: by name, the type of their values. */
  reductions?: Readonly<Record<string, 'f32' | 'u32' | 'vec3f' | 'vec3u' | 'vec4f'>>;
  /** Tensors whose elements lie in workgroup memory as `Factor`: f16 where all are and the device has it, else f32. */
  factors?: readonly string[];
  /** What the shader is compiled for. */
  constants?: Readonly<Record<string, number | boolean>>;
  /** Whole numbers and floats of this run: `p.name` in the shader. */
  parameters?: { u32?: Readonly<Record<string, number>>; f32?: Readonly<Record<string, number>> };
  /** Each becomes `load_name(i)`, `store_name(i, value)` for those in `writes`, and `p.name_stride`; one that is left out reads as 0. */
  tensors: Readonly<Record<string, TensorView | 'no f32' | 'no i32'>>;
  writes: readonly string[];
  workgroups: number;
}

/** What a shader reported: which check, where, and what it found. */
export interface Fault {
  code: number;
  index: number;
  values: readonly [number, number, number, number];
}

/** What operations need of the backend. */
export interface Kernels {
  /** Most bytes that a binding may cover: larger tensors are taken in parts. */
  readonly bindingBytes: number;
  dispatch(dispatch: Dispatch): void;
  /** A tensor for the time of this operation. */
  scratch(shape: readonly number[], dtype: TensorView['dtype']): TensorView;
  /**
   * A number for `p.faultSlot`: when the shader calls `fail(code, index, values)`, reading what the operation writes
   * rejects with this message.
   */
  faultSlot(message: (fault: Fault) => string): number;
  /** Queues another operation of the list. */
  run(operation: OperationName, tensors: readonly (TensorView | null)[], scalars: readonly number[]): void;
}

export type Arguments<Name extends OperationName> = OperationArguments<Name, TensorView>;
