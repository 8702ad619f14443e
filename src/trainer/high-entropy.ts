import type { ProcessGroup } from '../distributed/process-group.js';
import { entropyThreshold } from '../kernels/entropy-threshold.js';
import type { CausalLM } from '../models/causal-lm.js';
import type { TokenScores } from '../models/token-scores.js';
import type { Scope, Tensor } from '../tensor.js';
import type { GRPOConfig } from './config.js';
import { lossMask, type Rollout } from './rollout.js';

/** What is known of a micro-batch before its loss. */
export interface ScoredAhead {
  /** [N], of its tokens: those that the threshold was taken from, whatever a second forward pass gives. */
  entropy: Tensor;
  /** Of the first micro-batch, with what its backward pass needs; the others are scored again. */
  scores: TokenScores | null;
}

/**
 * For `topEntropyQuantile`: the threshold over the tokens of all micro-batches of all ranks, which every rank computes
 * for itself from the entropies of all. `parts` are the micro-batches of each rank; `score` runs one of this rank's
 * forward. Queued; what it makes lives as long as `scope`. All ranks call it, also one that has no micro-batch.
 */
export function highEntropyThreshold(
  { policy, group, config }: { policy: CausalLM; group: ProcessGroup; config: GRPOConfig },
  parts: readonly (readonly (readonly Rollout[])[])[],
  score: (rollouts: readonly Rollout[], gradients: boolean) => TokenScores,
  scope: Scope,
): { threshold: Tensor; ahead: ScoredAhead[] } {
  const { rank, worldSize } = group;
  const { topEntropyQuantile, maskTruncatedCompletions } = config;
  const own = parts[rank]!;
  // A collective takes as much from each rank: the mask leaves out what stands behind a rank's tokens.
  const length = Math.max(1, ...parts.map((microBatches) => tokensOf(microBatches.flat())));
  const ahead: ScoredAhead[] = [];
  const all = scope.track(policy.device.zeros([worldSize * length]));
  let end = rank * length + tokensOf(own.flat());
  for (let i = own.length - 1; i >= 0; i--) {
    const scores = scope.track(score(own[i]!, i === 0));
    const count = tokensOf(own[i]!);
    end -= count;
    const entropy = scope.track(all.view([count], end));
    policy.device.run('copy', { in: scores.entropy!, out: entropy });
    if (i > 0) scores.dispose();
    ahead.unshift({ entropy, scores: i === 0 ? scores : null });
  }
  const shared = all.view([length], rank * length);
  group.allGather(shared, all);
  shared.dispose();
  const mask = new Int32Array(worldSize * length);
  parts.forEach((microBatches, r) => {
    let at = r * length;
    for (const rollout of microBatches.flat()) {
      const next = at + rollout.completionIds.length;
      const active = lossMask(rollout, maskTruncatedCompletions);
      if (active) mask.set(active, at);
      else mask.fill(1, at, next);
      at = next;
    }
  });
  return { threshold: scope.track(entropyThreshold(all, { mask, topEntropyQuantile })), ahead };
}

function tokensOf(rollouts: readonly Rollout[]): number {
  return rollouts.reduce((sum, { completionIds }) => sum + completionIds.length, 0);
}
