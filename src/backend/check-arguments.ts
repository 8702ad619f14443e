import { InvalidArgumentError } from '../errors.js';
import { type DType, type OperationName, operations, type TensorView } from './backend.js';

/** One dimension of a pattern: any length, a fixed length, or the length of a symbol plus a constant. */
interface Dim {
  kind: 'any' | 'literal' | 'symbol';
  symbol: string;
  /** The literal length, or what is added to the symbol. */
  constant: number;
}

interface ParsedSpec {
  name: string;
  optional: boolean;
  reads: boolean;
  writes: boolean;
  dtypes: readonly DType[];
  /** null: the pattern `...`. */
  dims: readonly Dim[] | null;
  text: string;
}

interface ParsedOperation {
  tensors: readonly ParsedSpec[];
  /** Bit i is set when the operation reads, or writes, its i-th tensor. */
  readMask: number;
  writeMask: number;
}

const floats: readonly DType[] = ['f32', 'bf16', 'f16'];
const classes: Record<string, readonly DType[]> = {
  any: [...floats, 'i32'],
  float: floats,
  f32: ['f32'],
  i32: ['i32'],
};

export const parsedOperations = Object.fromEntries(
  Object.entries(operations).map(([name, { tensors }]) => {
    const specs = Object.entries(tensors).map(([tensor, spec]) => parseSpec(tensor, spec));
    const mask = (which: 'reads' | 'writes') => specs.reduce((bits, s, i) => (s[which] ? bits | (1 << i) : bits), 0);
    return [name, { tensors: specs, readMask: mask('reads'), writeMask: mask('writes') }];
  }),
) as unknown as Record<OperationName, ParsedOperation>;

function parseSpec(name: string, spec: string): ParsedSpec {
  const [role, dtype, shape] = spec.split(' ') as [string, string, string];
  const inner = shape.slice(1, -1);
  return {
    name,
    optional: role.endsWith('?'),
    reads: role.startsWith('in'),
    writes: role.startsWith('out') || role.startsWith('inout'),
    dtypes: classes[dtype]!,
    dims: inner === '...' ? null : inner.split(',').map(parseDim),
    text: shape,
  };
}

function parseDim(text: string): Dim {
  if (text === '*') return { kind: 'any', symbol: '', constant: 0 };
  if (/^\d+$/.test(text)) return { kind: 'literal', symbol: '', constant: Number(text) };
  const [symbol, plus] = text.split('+') as [string, string | undefined];
  return { kind: 'symbol', symbol, constant: Number(plus ?? 0) };
}

/** Throws an `InvalidArgumentError` that names operation and tensor when shapes or dtypes do not fit the entry. */
export function checkArguments(operation: OperationName, tensors: readonly (TensorView | null)[]): void {
  const lengths = new Map<string, number>();
  let common: readonly number[] | undefined;
  const specs = parsedOperations[operation].tensors;
  for (let i = 0; i < specs.length; i++) {
    const spec = specs[i]!;
    const tensor = tensors[i];
    const refuse = (expected: string, got: unknown): never => {
      throw new InvalidArgumentError(`${operation}: ${spec.name}`, expected, got);
    };
    if (!tensor) {
      if (!spec.optional) refuse('a tensor', tensor);
      continue;
    }
    const { dtype, shape } = tensor;
    if (!spec.dtypes.includes(dtype)) refuse(`dtype ${spec.dtypes.join(' or ')}`, dtype);
    if (!spec.dims) {
      common ??= shape;
      if (!sameShape(common, shape)) refuse(`shape [${common.join(',')}]`, shape);
      continue;
    }
    const fits = shape.length === spec.dims.length && spec.dims.every((dim, d) => unify(lengths, dim, shape[d]!));
    if (!fits) {
      const known = [...lengths].map(([dim, length]) => `${dim}=${length}`).join(', ');
      refuse(`shape ${spec.text}${known ? ` (${known})` : ''}`, shape);
    }
  }
}

function unify(lengths: Map<string, number>, dim: Dim, length: number): boolean {
  if (dim.kind === 'any') return true;
  if (dim.kind === 'literal') return length === dim.constant;
  const value = length - dim.constant;
  const known = lengths.get(dim.symbol);
  if (known === undefined) lengths.set(dim.symbol, value);
  return value >= 0 && (known === undefined || known === value);
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}
