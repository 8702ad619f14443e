/** Writes an ONNX model: the few fields of its protocol buffers that a graph of standard operators needs. */

const text = new TextEncoder();
const types = { f32: 1, i32: 6, i64: 7 } as const;
const irVersion = 8;
const operatorSet = 17;

export interface ModelNode {
  op: string;
  inputs: readonly string[];
  output: string;
  /** Whole numbers and lists of them. */
  attributes?: Readonly<Record<string, number | readonly number[]>>;
}

export interface ModelTensor {
  name: string;
  dtype: keyof typeof types;
  shape: readonly number[];
}

type Constant = number | Int32Array | readonly bigint[];

export interface Model {
  nodes: readonly ModelNode[];
  inputs: readonly ModelTensor[];
  outputs: readonly ModelTensor[];
  /** Scalars of f32, lists of i32 and of i64. */
  constants?: Readonly<Record<string, Constant>>;
}

export function encodeModel({ nodes, inputs, outputs, constants = {} }: Model): Uint8Array {
  const graph = [
    ...nodes.flatMap((node) => field(1, encodeNode(node))),
    ...string(2, 'graph'),
    ...Object.entries(constants).flatMap(([name, value]) => field(5, encodeConstant(name, value))),
    ...inputs.flatMap((tensor) => field(11, encodeTensorType(tensor))),
    ...outputs.flatMap((tensor) => field(12, encodeTensorType(tensor))),
  ];
  return Uint8Array.from([...number(1, irVersion), ...field(7, graph), ...field(8, number(2, operatorSet))]);
}

function encodeNode({ op, inputs, output, attributes = {} }: ModelNode): number[] {
  return [
    ...inputs.flatMap((name) => string(1, name)),
    ...string(2, output),
    ...string(3, `${op} ${output}`),
    ...string(4, op),
    ...Object.entries(attributes).flatMap(([name, value]) => field(5, encodeAttribute(name, value))),
  ];
}

function encodeAttribute(name: string, value: number | readonly number[]): number[] {
  if (typeof value === 'number') return [...string(1, name), ...number(3, value), ...number(20, 2)];
  return [...string(1, name), ...value.flatMap((entry) => number(8, entry)), ...number(20, 7)];
}

function encodeTensorType({ name, dtype, shape }: ModelTensor): number[] {
  const dimensions = shape.flatMap((length) => field(1, number(1, length)));
  return [...string(1, name), ...field(2, field(1, [...number(1, types[dtype]), ...field(2, dimensions)]))];
}

function encodeConstant(name: string, value: Constant): number[] {
  const array =
    typeof value === 'number' ? Float32Array.of(value) : 'buffer' in value ? value : BigInt64Array.from(value);
  const dtype = array instanceof Float32Array ? 'f32' : array instanceof Int32Array ? 'i32' : 'i64';
  const shape = typeof value === 'number' ? [] : number(1, array.length);
  return [...shape, ...number(2, types[dtype]), ...string(8, name), ...field(9, new Uint8Array(array.buffer))];
}

function varint(value: number | bigint): number[] {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(value));
  do {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest > 0n ? low | 128 : low);
  } while (rest > 0n);
  return bytes;
}

function number(id: number, value: number | bigint): number[] {
  return [...varint(id << 3), ...varint(value)];
}

function field(id: number, bytes: ArrayLike<number>): number[] {
  return [...varint((id << 3) | 2), ...varint(bytes.length), ...Array.from(bytes)];
}

function string(id: number, value: string): number[] {
  return field(id, [...text.encode(value)]);
}
