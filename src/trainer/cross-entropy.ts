import type { CausalLM } from '../models/causal-lm.js';
import type { TokenSequence } from '../models/token-scores.js';
import type { Scope, Tensor } from '../tensor.js';
import type { GRPOConfig } from './config.js';

export type CrossEntropyOptions = Pick<GRPOConfig, 'gradientCheckpointing' | 'logitsWorkspaceBytes'>;

/** Log-probs and entropies [N] of the tokens of some sequences, one after another. */
export interface ScoredTokens {
  logProbs: Tensor;
  entropy: Tensor;
}

/**
 * Adds the gradients of the sum over sequences b of -weights[b] * sum(log-prob of its tokens). The tensors given live as
 * long as `scope`.
 */
export function backwardCrossEntropy(
  policy: CausalLM,
  sequences: readonly TokenSequence[],
  weights: readonly number[],
  { gradientCheckpointing, logitsWorkspaceBytes: workspaceBytes }: CrossEntropyOptions,
  scope: Scope,
  onGradients: ((prefix: string) => void) | null = null,
): ScoredTokens {
  const { device } = policy;
  const scores = policy.score(sequences, {
    ...{ gradients: true, gradientCheckpointing, entropy: true, workspaceBytes, onGradients },
  });
  let gradient: Tensor | null = null;
  try {
    const keep = (tensor: Tensor) => {
      const copy = scope.track(device.empty(tensor.shape));
      device.run('copy', { in: tensor, out: copy });
      return copy;
    };
    const kept = { logProbs: keep(scores.logProbs), entropy: keep(scores.entropy!) };
    const values = sequences.flatMap(({ completionIds }, b) =>
      new Array<number>(completionIds.length).fill(-weights[b]!),
    );
    gradient = device.tensor(Float32Array.from(values), scores.logProbs.shape);
    scores.backward(gradient);
    return kept;
  } finally {
    gradient?.dispose();
    scores.dispose();
  }
}
