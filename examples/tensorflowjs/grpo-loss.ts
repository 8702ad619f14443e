/**
 * The GRPO loss as an operation of TensorFlow.js that its automatic differentiation goes through. The logits are read in
 * the buffer where TensorFlow.js keeps them, and the gradient is written into one that it uses as a tensor: nothing of
 * size [tokens, vocab] is copied, and nothing leaves the GPU.
 */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import {
  type Device,
  type PolicyLossOptions,
  policyLoss,
  type Tensor,
  tokenLogProbs,
  tokenLogProbsBackward,
} from 'grpo-native';

export interface Batch {
  /** [tokens]: the chosen tokens. */
  targets: Int32Array;
  /** [sequences]. */
  advantages: Float32Array | Tensor;
  /** [sequences + 1]. */
  sequenceOffsets: Int32Array;
  /** [tokens]: when the policy was updated since it made the batch. */
  oldLogProbs?: Float32Array;
}

export class GrpoLoss {
  readonly #backend: WebGPUBackend;
  readonly #device: Device;
  readonly #options: PolicyLossOptions;
  readonly #value: SharedTensor;
  readonly #gradient: SharedTensor;
  #metrics: Promise<Record<string, number>> = Promise.resolve({});

  /** `device` must be over the GPUDevice of `backend`. Logits are [tokens, vocab]. */
  constructor(backend: WebGPUBackend, device: Device, [tokens, vocab]: number[], options: PolicyLossOptions = {}) {
    this.#backend = backend;
    this.#device = device;
    this.#options = options;
    this.#value = new SharedTensor(backend, device, [1]);
    this.#gradient = new SharedTensor(backend, device, [tokens!, vocab!]);
  }

  /** The metrics of the last batch. */
  get metrics(): Promise<Record<string, number>> {
    return this.#metrics;
  }

  /** The loss of `logits`. Differentiate it before the next call: that one writes the same gradient buffer. */
  of(logits: tf.Tensor2D, batch: Batch): tf.Scalar {
    const operation = tf.customGrad((input) => {
      this.#run(input as tf.Tensor2D, batch);
      const value = tf.reshape(tf.tensor({ buffer: this.#value.buffer }, [1], 'float32'), []); // a copy of 4 bytes
      const gradFunc = (upstream: tf.Tensor) => {
        const gradient = tf.tensor({ buffer: this.#gradient.buffer, zeroCopy: true }, logits.shape, 'float32');
        return tf.mul(upstream, gradient);
      };
      return { value, gradFunc };
    });
    return operation(logits) as tf.Scalar;
  }

  dispose(): void {
    this.#value.dispose();
    this.#gradient.dispose();
  }

  #run(input: tf.Tensor2D, { targets, ...batch }: Batch): void {
    using logits = this.#device.tensorFromBuffer(bufferOf(this.#backend, input), input.shape);
    const forward = tokenLogProbs(logits, targets);
    const result = policyLoss({ ...batch, logProbs: forward.logProbs, entropy: forward.entropy }, this.#options);
    const { gradLogProbs, gradEntropy } = result;
    tokenLogProbsBackward(logits, targets, {
      ...forward,
      gradLogProbs,
      gradEntropy,
      gradLogits: this.#gradient.tensor,
    });
    this.#device.run('copy', { in: result.loss, out: this.#value.tensor });
    // Submitted here, so that it runs before whatever TensorFlow.js submits from now on.
    const submitted = this.#device.synchronize();
    this.#metrics = Promise.all([result.metrics.read(), submitted])
      .then(([metrics]) => metrics)
      .finally(() => {
        for (const tensor of Object.values(forward)) tensor.dispose();
        result.dispose();
      });
  }
}

/** A buffer that both sides see. */
class SharedTensor {
  readonly buffer: GPUBuffer;
  readonly tensor: Tensor;

  constructor({ device: gpuDevice }: WebGPUBackend, device: Device, shape: readonly number[]) {
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    this.buffer = gpuDevice.createBuffer({ size: 4 * shape.reduce((size, length) => size * length, 1), usage });
    this.tensor = device.tensorFromBuffer(this.buffer, shape);
  }

  dispose(): void {
    this.tensor.dispose();
    this.buffer.destroy();
  }
}

/**
 * Where TensorFlow.js keeps a tensor, after it has submitted what fills it. `tensor.dataToGPU()` would do the same, but
 * into a copy.
 */
function bufferOf(backend: WebGPUBackend, { dataId }: tf.Tensor): GPUBuffer {
  backend.uploadToGPU(dataId); // a tensor made of numbers has no buffer until it is used
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.submitQueue();
  return backend.tensorMap.get(dataId).resource as GPUBuffer;
}
