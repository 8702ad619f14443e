import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Tape, type Variable, type Weight } from '../../src/autograd.js';
import { openDevice } from '../../src/backend/open-device.js';
import { normals } from '../../src/random.js';
import type { Device, Tensor } from '../../src/tensor.js';

let device: Device;
beforeAll(async () => {
  device = await openDevice('cpu');
});
afterAll(() => {
  expect(device.memory().liveTensors).toBe(0);
  device.close();
});

const rows = 5;
const width = 8;
const ids = [3, 0, 3, 1, 2];

/** Weights of a small network, with gradients, by name. */
class Network {
  readonly weights: Record<string, Weight & { value: Tensor; grad: Tensor }> = {};
  readonly indices: Record<string, Tensor> = {};

  constructor(shapes: Record<string, number[]>, indices: Record<string, number[]> = {}) {
    Object.entries(shapes).forEach(([name, shape], stream) => {
      const count = shape.reduce((a, b) => a * b, 1);
      const value = device.tensor(
        normals(count, 11, stream).map((x) => x / 2),
        shape,
      );
      this.weights[name] = { value, grad: device.zeros(shape) };
    });
    for (const [name, list] of Object.entries({ ids, ...indices })) {
      this.indices[name] = device.tensor(list, [list.length], 'i32');
    }
  }

  dispose(): void {
    for (const { value, grad } of Object.values(this.weights)) {
      value.dispose();
      grad.dispose();
    }
    for (const tensor of Object.values(this.indices)) tensor.dispose();
  }
}

type Forward = (tape: Tape, network: Network) => Variable;

/** Compares each gradient of sum(output * c), for a fixed c, with central differences of the loss. */
async function checkGradients(network: Network, forward: Forward, checkpoint = false): Promise<void> {
  const tape = new Tape(device, { record: true, checkpoint });
  const output = forward(tape, network);
  const coefficients = normals(output.value.size, 23, 0);
  const seed = device.tensor(coefficients, output.value.shape);
  tape.backward(output, seed);
  expect(await seed.read()).toEqual(coefficients);
  seed.dispose();
  tape.dispose();
  const loss = async () => {
    const plain = new Tape(device, { record: false });
    const values = (await forward(plain, network).value.read()) as Float32Array;
    plain.dispose();
    return values.reduce((sum, x, i) => sum + x * coefficients[i]!, 0);
  };
  for (const [name, { value, grad }] of Object.entries(network.weights)) {
    const original = (await value.read()) as Float32Array;
    const gradient = (await grad.read()) as Float32Array;
    const scale = Math.max(...gradient.map(Math.abs), 0.1);
    for (let i = 0; i < original.length; i += Math.ceil(original.length / 7)) {
      const at = async (delta: number) => {
        value.write(original.map((x, j) => (j === i ? x + delta : x)));
        return loss();
      };
      const step = 1e-2;
      const numeric = ((await at(step)) - (await at(-step))) / (2 * step);
      expect(Math.abs(numeric - gradient[i]!) / scale, `${name}[${i}]`).toBeLessThan(5e-3);
    }
    value.write(original);
  }
  network.dispose();
}

describe('gradients agree with finite differences', () => {
  it('of a value that several operations read', () =>
    checkGradients(
      new Network({ table: [4, width], a: [width, width], b: [width, width], norm: [width] }),
      (tape, n) => {
        const { table, a, b, norm } = n.weights as Record<string, Weight>;
        const x = tape.embedding(table!, n.indices.ids!);
        const left = tape.linear(x, a!, null, x);
        const right = tape.linear(tape.rmsNorm(x, norm!, 1e-6), b!, null, left);
        return tape.linear(tape.rmsNorm(right, norm!, 1e-6), a!, null, x);
      },
    ));

  it('of a bias and of a gated product whose halves are columns of one value', () =>
    checkGradients(new Network({ table: [4, width], both: [12, width], bias: [12], down: [width, 6] }), (tape, n) => {
      const { table, both, bias, down } = n.weights as Record<string, Weight>;
      const x = tape.embedding(table!, n.indices.ids!);
      const [gate, up] = tape.split(tape.linear(x, both!, bias!), [6, 6]);
      return tape.linear(tape.swiglu(gate!, up!), down!, null, x);
    }));

  it('of columns of which some are never read, or read twice', () =>
    checkGradients(new Network({ table: [4, width], all: [18, width], down: [width, 6] }), (tape, n) => {
      const { table, all, down } = n.weights as Record<string, Weight>;
      const [a, b] = tape.split(tape.linear(tape.embedding(table!, n.indices.ids!), all!), [6, 6, 6]);
      return tape.linear(tape.swiglu(a!, b!), down!, null, tape.linear(tape.swiglu(b!, b!), down!));
    }));

  it('of attention over packed sequences with rotated and normed heads', () => {
    const shapes = { table: [4, width], qkv: [32, width], norm: [8], out: [width, 16] };
    const network = new Network(shapes, { offsets: [0, 2, rows], positions: [0, 1, 0, 1, 2] });
    const inverseFrequencies = device.tensor([1, 0.5, 0.2, 0.1], [4]);
    const layout = { maxLength: 3, headDim: 8, scale: 0.4 };
    return checkGradients(network, (tape, n) => {
      const { table, qkv, norm, out } = n.weights as Record<string, Weight>;
      const { offsets, positions } = n.indices as Record<string, Tensor>;
      const x = tape.embedding(table!, n.indices.ids!);
      const [queries, k, values] = tape.split(tape.linear(x, qkv!), [16, 8, 8]);
      const keys = tape.rmsNorm(k!, norm!, 1e-6);
      for (const heads of [queries!, keys]) tape.rope(heads, positions!, inverseFrequencies, 8);
      const attended = tape.attention(queries!, keys, values!, { sequenceOffsets: offsets!, ...layout });
      return tape.linear(attended, out!, null, x);
    }).finally(() => inverseFrequencies.dispose());
  });

  it('of some rows, gathered more than once', () => {
    const network = new Network({ table: [4, width], a: [width, width] }, { some: [4, 0, 2], fewer: [2, 4, 1] });
    return checkGradients(network, (tape, n) => {
      const { table, a } = n.weights as Record<string, Weight>;
      const x = tape.linear(tape.embedding(table!, n.indices.ids!), a!);
      return tape.linear(tape.gatherRows(x, n.indices.some!), a!, null, tape.gatherRows(x, n.indices.fewer!));
    });
  });

  it.each([false, true])('of blocks (checkpointing: %s)', (checkpoint) => {
    const forward: Forward = (tape, n) => {
      const { table, a, norm } = n.weights as Record<string, Weight>;
      const layer = (inner: Tape, x: Variable) => inner.linear(inner.rmsNorm(x, norm!, 1e-6), a!, null, x);
      const x = tape.embedding(table!, n.indices.ids!);
      return tape.block(layer, tape.block(layer, tape.block(layer, x)));
    };
    return checkGradients(new Network({ table: [4, width], a: [width, width], norm: [width] }), forward, checkpoint);
  });
});

it('frozen weights get no gradient, and others do all the same', async () => {
  const network = new Network({ table: [4, width], a: [width, width] });
  const { table, a } = network.weights as Record<string, Weight & { grad: Tensor }>;
  const tape = new Tape(device, { record: true });
  const output = tape.linear(tape.embedding(table!, network.indices.ids!), { value: a!.value, grad: null });
  const seed = device.tensor(new Float32Array(rows * width).fill(1), [rows, width]);
  tape.backward(output, seed);
  expect(new Set(await a!.grad.read())).toEqual(new Set([0]));
  expect((await table!.grad.read()).some((x) => x !== 0)).toBe(true);
  tape.dispose();
  seed.dispose();
  network.dispose();
});

it('backward frees what the tape made; without recording a block keeps its result only', async () => {
  const network = new Network({ table: [4, width], a: [width, width] });
  const { table, a } = network.weights as Record<string, Weight>;
  const start = device.memory().liveTensors;
  const layer = (inner: Tape, x: Variable) => inner.linear(inner.linear(x, a!), a!, null, x);
  const tape = new Tape(device, { record: true });
  const output = tape.block(layer, tape.embedding(table!, network.indices.ids!));
  expect(device.memory().liveTensors).toBe(start + 3);
  const seed = device.zeros(output.value.shape);
  tape.backward(output, seed);
  expect(device.memory().liveTensors).toBe(start + 1);
  tape.dispose();
  seed.dispose();

  const plain = new Tape(device, { record: false });
  plain.block(layer, plain.block(layer, plain.embedding(table!, network.indices.ids!)));
  expect(device.memory().liveTensors).toBe(start + 1);
  plain.dispose();
  expect(device.memory().liveTensors).toBe(start);
  network.dispose();
});

it('parts of a split must make up the whole', () => {
  const network = new Network({ table: [4, width] });
  const tape = new Tape(device, { record: true });
  const x = tape.embedding(network.weights.table!, network.indices.ids!);
  expect(() => tape.split(x, [3, 4])).toThrow(/7 of 8 columns/);
  tape.dispose();
  network.dispose();
});
