/**
 * The GRPO loss for a policy of jax-js, which has no custom gradients. Our kernels compute G, the gradient of the loss with
 * respect to the logits, and jax-js differentiates the linear surrogate `sum(logits * stopGradient(G))`: its gradient with
 * respect to the weights is that of the loss.
 *
 * The logits are read where jax-js keeps them. G goes back through an array: jax-js takes no buffer of somebody else.
 */
import { type Array as JaxArray, lax, numpy as np } from '@jax-js/jax';
import {
  type Device,
  type PolicyLossInputs,
  type PolicyLossOptions,
  policyLoss,
  tokenLogProbs,
  tokenLogProbsBackward,
} from 'grpo-native';

export interface Batch extends Omit<PolicyLossInputs, 'logProbs' | 'entropy'> {
  /** [tokens]: the chosen tokens. */
  targets: Int32Array;
}

/**
 * G [tokens, vocab] and the loss. `device` must be over the GPUDevice of jax-js; `logits` [tokens, vocab] are consumed, as
 * by the functions of jax-js.
 */
export async function grpoGradient(
  device: Device,
  logits: JaxArray,
  { targets, ...inputs }: Batch,
  options: PolicyLossOptions = {},
): Promise<{ gradient: JaxArray; loss: number }> {
  const shape = logits.shape;
  using shared = device.tensorFromBuffer(await logits.ref.gpuBuffer(), shape);
  const forward = tokenLogProbs(shared, targets);
  const result = policyLoss({ ...inputs, logProbs: forward.logProbs, entropy: forward.entropy }, options);
  const { gradLogProbs, gradEntropy } = result;
  using gradLogits = tokenLogProbsBackward(shared, targets, { ...forward, gradLogProbs, gradEntropy });
  const [gradient, loss] = await Promise.all([gradLogits.read(), result.loss.read()]);
  for (const tensor of Object.values(forward)) tensor.dispose();
  result.dispose();
  logits.dispose();
  return { gradient: np.array(gradient, { shape }), loss: loss[0]! };
}

/** What jax-js differentiates in place of the loss. Consumes both. */
export function surrogate(logits: JaxArray, gradient: JaxArray): JaxArray {
  return np.sum(logits.mul(lax.stopGradient(gradient)));
}
