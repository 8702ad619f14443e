/** What is computed, and its data. */
import type { Device, Tensor } from '../../src/index.js';
import type { Input, Inputs, Operation } from './side.js';

export const klCoefficient = 0.04;
export const clipRange = 0.2;
export const deviationEpsilon = 1e-4;

export interface Problem {
  label: string;
  operation: Operation;
  dtype: 'f32' | 'bf16';
  /** Bytes of the largest tensor. */
  bytes: number;
  /** Tensors of that size that must be read and written at least; 0 when they are too small for the memory to matter. */
  passes: number;
  makeInputs(device: Device, gpuDevice: GPUDevice | null): Inputs;
}

export const labels: Record<Operation, string> = {
  forward: 'log-prob + entropy, forward',
  backward: 'log-prob + entropy, backward',
  both: 'log-prob + entropy, forward + backward',
  policyLoss: 'policy loss (dapo, KL), loss and gradient',
  groupAdvantages: 'group advantages',
};

export function logProbsProblem(
  operation: 'forward' | 'backward' | 'both',
  rows: number,
  vocab: number,
  dtype: 'f32' | 'bf16',
): Problem {
  return {
    label: `${labels[operation]}, N ${rows}, V ${vocab}, ${dtype}`,
    operation,
    dtype,
    bytes: rows * vocab * (dtype === 'f32' ? 4 : 2),
    passes: { forward: 1, backward: 2, both: 3 }[operation],
    makeInputs(device, gpuDevice) {
      const place = placer(device, gpuDevice);
      const logits = place([rows, vocab], dtype);
      // A few rows again and again: they are compared with the peers, and take little memory here.
      const pattern = Math.min(rows, 16);
      const values = noise(pattern * vocab, 4);
      for (let row = 0; row < rows; row += pattern) {
        const count = Math.min(pattern, rows - row);
        using part = logits.tensor.view([count, vocab], row * vocab);
        part.write(values.subarray(0, count * vocab));
      }
      const targets = place([rows], 'i32');
      targets.tensor.write(Int32Array.from({ length: rows }, (_, i) => (i * 7919) % vocab));
      const inputs: Record<string, Input> = { logits, targets };
      if (operation === 'forward') return inputs;
      inputs.gradLogProbs = filled(place([rows], 'f32'), noise(rows, 1));
      inputs.gradEntropy = filled(place([rows], 'f32'), noise(rows, 0.1));
      if (operation === 'both') return inputs;
      inputs.entropy = place([rows], 'f32');
      inputs.logSumExp = place([rows], 'f32');
      using logProbs = device.empty([rows]);
      const [entropy, logSumExp] = [inputs.entropy.tensor, inputs.logSumExp.tensor];
      const forward = { logits: logits.tensor, targets: targets.tensor, logProbs, entropy, logSumExp };
      device.run('tokenLogProbs', { ...forward, temperature: 1, softcap: 0 });
      return inputs;
    },
  };
}

export function policyLossProblem(tokens: number, sequences: number): Problem {
  return {
    label: `${labels.policyLoss}, ${tokens} tokens`,
    operation: 'policyLoss',
    dtype: 'f32',
    bytes: 4 * tokens,
    passes: 0,
    makeInputs(device, gpuDevice) {
      const place = placer(device, gpuDevice);
      const logProbs = noise(tokens, 0.5).map((x) => -1 - Math.abs(x));
      const near = (seed: number) => noise(tokens, 0.2, seed).map((x, i) => x + logProbs[i]!);
      const offsets = Int32Array.from({ length: sequences + 1 }, (_, b) => (b * tokens) / sequences);
      return {
        logProbs: filled(place([tokens], 'f32'), logProbs),
        oldLogProbs: filled(place([tokens], 'f32'), near(2)),
        refLogProbs: filled(place([tokens], 'f32'), near(3)),
        advantages: filled(place([sequences], 'f32'), noise(sequences, 1, 4)),
        sequenceOffsets: filled(place([sequences + 1], 'i32'), offsets),
        // Which sequence a token belongs to, as the peers take it.
        sequences: filled(
          place([tokens], 'i32'),
          Int32Array.from({ length: tokens }, (_, i) => Math.floor((i * sequences) / tokens)),
        ),
      };
    },
  };
}

export function groupAdvantagesProblem(groups: number, size: number): Problem {
  return {
    label: `${labels.groupAdvantages}, ${groups} groups of ${size}`,
    operation: 'groupAdvantages',
    dtype: 'f32',
    bytes: 4 * groups * size,
    passes: 0,
    makeInputs(device, gpuDevice) {
      const place = placer(device, gpuDevice);
      return {
        rewards: filled(place([groups * size], 'f32'), noise(groups * size, 1)),
        groupOffsets: filled(
          place([groups + 1], 'i32'),
          Int32Array.from({ length: groups + 1 }, (_, g) => g * size),
        ),
      };
    },
  };
}

export function disposeInputs(inputs: Inputs): void {
  for (const { tensor, buffer } of Object.values(inputs)) {
    tensor.dispose();
    buffer?.destroy();
  }
}

/** The same numbers at each run, about normal. */
function noise(count: number, scale: number, seed = 1): Float32Array {
  let state = seed;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  const base = Float32Array.from({ length: 4093 }, () => (uniform() + uniform() + uniform() - 1.5) * scale);
  return Float32Array.from({ length: count }, (_, i) => base[(i * 7) % 4093]!);
}

/** Makes tensors, on WebGPU over buffers that the peers can read too. */
function placer(device: Device, gpuDevice: GPUDevice | null) {
  return (shape: number[], dtype: 'f32' | 'bf16' | 'i32'): Input => {
    if (!gpuDevice) return { tensor: device.empty(shape, dtype), buffer: null };
    const size = shape.reduce((product, length) => product * length, dtype === 'bf16' ? 2 : 4);
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = gpuDevice.createBuffer({ size: Math.ceil(size / 4) * 4, usage });
    return { tensor: device.tensorFromBuffer(buffer, shape, dtype), buffer };
  };
}

function filled<T extends { tensor: Tensor }>(input: T, data: Float32Array | Int32Array): T {
  input.tensor.write(data);
  return input;
}
