// In a file of its own: no other device of the process has memory that it frees a little later.
import { existsSync } from 'node:fs';
import { afterAll, expect, test, vi } from 'vitest';
import { OutOfMemoryError } from '../../../src/errors.js';
import type { Tensor } from '../../../src/tensor.js';
import { cudaOnCpu, openCudaOnCpu } from '../../devices.js';

afterAll(() => {
  vi.unstubAllEnvs();
});

test.skipIf(!existsSync(cudaOnCpu.library))(
  'products and the fused head in bf16 convert no operand: there would be no memory for it',
  async () => {
    vi.stubEnv('GRPO_CUDA_ON_CPU_MEMORY', String(40 << 20)); // of which cuBLAS takes 32 MiB
    using device = await openCudaOnCpu();
    const [rows, width, vocab] = [4, 1024, 2048];
    const ones = (shape: number[], dtype: 'f32' | 'bf16') => {
      const tensor = device.empty(shape, dtype);
      device.run('fill', { out: tensor, value: 1 });
      return tensor;
    };
    const weight = ones([vocab, width], 'bf16'); // 4 MiB, and 8 in float32
    const hidden = ones([rows, width], 'bf16');
    const targets = device.tensor(new Int32Array(rows), [rows], 'i32');
    const logSumExp = device.tensor(new Float32Array(rows).fill(width + Math.log(vocab)), [rows]);
    const gradLogProbs = ones([rows], 'f32');
    const flags = { transposeA: 0, transposeB: 1, accumulate: 0 };
    const product = (a: Tensor, out: Tensor) => device.run('matmul', { a, b: weight, out, ...flags });
    const backward = (gradHidden: Tensor) =>
      device.run('linearTokenLogProbsBackward', {
        ...{ hidden, weight, targets, logSumExp, gradLogProbs, gradHidden },
        ...{ temperature: 1, softcap: 0, workspaceBytes: 1 << 20 },
      });
    for (const dtype of ['f32', 'bf16'] as const) {
      const out = device.empty([rows, vocab], dtype);
      product(hidden, out);
      expect((await out.read()).every((x) => x === width)).toBe(true);
    }
    const gradWeight = ones([rows, width], 'f32');
    const narrow = ones([rows, rows], 'bf16');
    device.run('matmul', { a: narrow, b: hidden, out: gradWeight, transposeA: 1, transposeB: 0, accumulate: 1 });
    expect((await gradWeight.read()).every((x) => x === rows + 1)).toBe(true);
    const gradHidden = device.empty([rows, width], 'bf16');
    backward(gradHidden);
    for (const x of await gradHidden.read()) expect(Math.abs(x)).toBeLessThan(1e-2);

    const mixed = device.empty([rows, vocab]);
    product(ones([rows, width], 'f32'), mixed);
    await expect(mixed.read()).rejects.toThrow(OutOfMemoryError);
    const exact = device.empty([rows, width]);
    backward(exact);
    await expect(exact.read()).rejects.toThrow(OutOfMemoryError);
  },
);
