/** TensorFlow.js on the same GPUDevice, reading the same buffers. Gradients are those of its automatic differentiation. */
import { createRequire } from 'node:module';
import { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { clipRange, deviationEpsilon, klCoefficient } from './problems.js';
import { type Operation, type Side, sample } from './side.js';

// As CommonJS: its files name each other in a way that modules of Node do not resolve.
createRequire(import.meta.url)('@tensorflow/tfjs-core/dist/register_all_gradients');

type Tensors = Record<string, tf.Tensor>;

export async function tensorFlowSide(gpuDevice: GPUDevice): Promise<Side> {
  const backend = new WebGPUBackend(gpuDevice, gpuDevice.adapterInfo);
  if (tf.findBackendFactory('webgpu')) tf.removeBackend('webgpu');
  tf.registerBackend('webgpu', () => backend);
  await tf.setBackend('webgpu');
  return {
    name: `TensorFlow.js ${tf.version_core}`,
    async prepare(operation, inputs) {
      const given: Tensors = {};
      for (const [name, { tensor, buffer }] of Object.entries(inputs)) {
        const dtype = tensor.dtype === 'i32' ? 'int32' : 'float32';
        given[name] = tf.tensor({ buffer: buffer!, zeroCopy: true }, [...tensor.shape], dtype);
      }
      if (given.targets) given.places = placesOf(given.logits!, given.targets);
      let results: Tensors = {};
      const free = () => {
        tf.dispose(results);
        results = {};
      };
      return {
        queue() {
          free();
          results = tf.tidy(() => calls[operation](given));
        },
        wait() {
          backend.ensureCommandEncoderReady();
          backend.endComputePassEncoder();
          backend.submitQueue();
          return gpuDevice.queue.onSubmittedWorkDone();
        },
        async results() {
          const parts: Record<string, Float32Array> = {};
          for (const [key, tensor] of Object.entries(results)) {
            parts[key] = await sample(tensor.size, async (begin, length) => {
              const part = tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), begin, length));
              const values = await part.data();
              part.dispose();
              return values;
            });
          }
          return parts;
        },
        dispose() {
          free();
          tf.dispose(given);
        },
      };
    },
  };
}

const calls: Record<Operation, (given: Tensors) => Tensors> = {
  forward: ({ logits, places }) => logProbs(logits!, places!),
  // From what the forward pass kept. There is no way to differentiate without running forward again.
  backward({ logits, targets, gradLogProbs, gradEntropy, logSumExp, entropy }) {
    const column = (tensor?: tf.Tensor) => tf.expandDims(tensor!, 1);
    const logP = tf.sub(logits!, column(logSumExp));
    const slope = tf.add(column(gradLogProbs), tf.mul(column(gradEntropy), tf.add(logP, column(entropy))));
    const chosen = tf.mul(tf.oneHot(targets as tf.Tensor1D, logits!.shape[1]!), column(gradLogProbs));
    return { gradLogits: tf.sub(chosen, tf.mul(tf.exp(logP), slope)) };
  },
  both({ logits, places, gradLogProbs, gradEntropy }) {
    const total = (x: tf.Tensor) => {
      const forward = logProbs(x, places!);
      const terms = tf.add(tf.mul(forward.logProbs!, gradLogProbs!), tf.mul(forward.entropy!, gradEntropy!));
      return tf.sum(terms);
    };
    return { gradLogits: tf.grad(total)(logits!) };
  },
  policyLoss({ logProbs, oldLogProbs, refLogProbs, advantages, sequences }) {
    const loss = (x: tf.Tensor) => {
      const ratio = tf.exp(tf.sub(x, oldLogProbs!));
      const gain = tf.gather(advantages!, sequences as tf.Tensor1D);
      const clipped = tf.clipByValue(ratio, 1 - clipRange, 1 + clipRange);
      const objective = tf.minimum(tf.mul(ratio, gain), tf.mul(clipped, gain));
      const difference = tf.sub(refLogProbs!, x);
      const kl = tf.sub(tf.sub(tf.exp(difference), difference), 1);
      return tf.mean(tf.sub(tf.mul(klCoefficient, kl), objective));
    };
    const { value, grad } = tf.valueAndGrad(loss)(logProbs!);
    return { loss: value, gradLogProbs: grad };
  },
  groupAdvantages({ rewards, groupOffsets }) {
    const size = rewards!.size / (groupOffsets!.size - 1);
    const grouped = tf.reshape(rewards!, [-1, size]);
    const centred = tf.sub(grouped, tf.mean(grouped, 1, true));
    const deviation = tf.sqrt(tf.div(tf.sum(tf.square(centred), 1, true), size - 1));
    return { advantages: tf.div(centred, tf.add(deviation, deviationEpsilon)) };
  },
};

function logProbs(logits: tf.Tensor, places: tf.Tensor): Tensors {
  const all = tf.logSoftmax(logits);
  return {
    logProbs: tf.gather(tf.reshape(all, [-1]), places as tf.Tensor1D),
    entropy: tf.neg(tf.sum(tf.mul(tf.exp(all), all), 1)),
  };
}

/** Where the targets lie among all logits. */
function placesOf(logits: tf.Tensor, targets: tf.Tensor): tf.Tensor {
  const [rows, vocab] = logits.shape as [number, number];
  return tf.tidy(() => tf.add(tf.mul(tf.range(0, rows, 1, 'int32'), tf.scalar(vocab, 'int32')), targets));
}
