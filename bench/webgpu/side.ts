import type { Tensor } from '../../src/index.js';

export type Operation = 'forward' | 'backward' | 'both' | 'policyLoss' | 'groupAdvantages';

/** One array that every side on the GPU reads in place. */
export interface Input {
  tensor: Tensor;
  /** Null on a device that is not WebGPU: only this package runs there. */
  buffer: GPUBuffer | null;
}

export type Inputs = Readonly<Record<string, Input>>;

/** A library under measurement. */
export interface Side {
  readonly name: string;
  prepare(operation: Operation, inputs: Inputs): Promise<Work>;
}

/** An operation that is ready to run. */
export interface Work {
  /** Queues it once. */
  queue(): void | Promise<void>;
  /** Until all that was queued is done. */
  wait(): Promise<unknown>;
  /** What the last run gave: of long results only the parts that `sampledParts` names. */
  results(): Promise<Record<string, Float32Array>>;
  dispose(): void;
}

const sampledElements = 2 ** 20;

/** First element and length of the parts of a result that are compared: its begin and its end. */
export function sampledParts(size: number): [begin: number, length: number][] {
  if (size <= 2 * sampledElements) return [[0, size]];
  return [
    [0, sampledElements],
    [size - sampledElements, sampledElements],
  ];
}

/** Reads the parts of a result one after the other. */
export async function sample(
  size: number,
  read: (begin: number, length: number) => Promise<ArrayLike<number>>,
): Promise<Float32Array> {
  const parts = sampledParts(size);
  const out = new Float32Array(parts.reduce((sum, [, length]) => sum + length, 0));
  let at = 0;
  for (const [begin, length] of parts) {
    out.set(await read(begin, length), at);
    at += length;
  }
  return out;
}
