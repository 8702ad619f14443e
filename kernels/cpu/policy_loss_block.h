// One sequence of the policy loss: blocks of its active tokens, what they share, and the loss, gradients and statistics
// of a block. Included by policy_loss.cc.
#pragma once

SIMD vfloat hd_exp(vfloat x) { return vexp(x); }

#include "../common/policy_token.h"

constexpr int kTokenBlock = 256;

// Tensors of a call; those that may be absent are null.
struct PolicyTokens {
  const float* log_probs;
  const float* old_log_probs;
  const float* ref_log_probs;
  const float* rollout_log_probs;
  const float* entropy;
  const float* advantages;  // of tokens; null when they are of sequences
  float* grad_log_probs;
  float* grad_entropy;

  PolicyTokens from(int64_t token) const {
    const auto move = [&](auto* p) { return p ? p + token : nullptr; };
    return {move(log_probs), move(old_log_probs), move(ref_log_probs),  move(rollout_log_probs),
            move(entropy),   move(advantages),    move(grad_log_probs), move(grad_entropy)};
  }
};

SIMD vfloat load_tokens(const float* p, int n) { return n >= kWidth ? vload(p) : vload_part(p, n); }
SIMD void store_tokens(float* p, int n, vfloat x) {
  if (n >= kWidth)
    vstore(p, x);
  else
    vstore_part(p, n, x);
}
SIMD vint first_lanes(int n) { return lane_numbers() < n; }

// The tokens from `i` on, `n` of them or a whole vector; `advantage` is that of their sequence.
SIMD PolicyToken<vfloat> load_token(const PolicyTokens& tokens, int i, int n, float advantage) {
  const auto load = [&](const float* p) __attribute__((always_inline)) { return p ? load_tokens(p + i, n) : vfloat{}; };
  return {load(tokens.log_probs),
          load(tokens.old_log_probs),
          load(tokens.ref_log_probs),
          load(tokens.rollout_log_probs),
          load(tokens.entropy),
          tokens.advantages ? load(tokens.advantages) : vset(advantage),
          tokens.old_log_probs != nullptr,
          tokens.ref_log_probs != nullptr,
          tokens.rollout_log_probs != nullptr,
          tokens.entropy != nullptr};
}

// body(block, n) for the active tokens from `begin` to `end`, in blocks of kTokenBlock but the last.
template <class F>
void for_active_blocks(const PolicyTokens& tokens, const int32_t* mask, int64_t begin, int64_t end, const F& body) {
  if (!mask) {
    for (int64_t t = begin; t < end; t += kTokenBlock)
      body(tokens.from(t), static_cast<int>(std::min<int64_t>(kTokenBlock, end - t)));
    return;
  }
  int64_t chosen[kTokenBlock];
  float values[6][kTokenBlock], gradients[2][kTokenBlock];
  for (int64_t t = begin; t < end;) {
    int n = 0;
    for (; t < end && n < kTokenBlock; ++t) {
      chosen[n] = t;
      n += mask[t] != 0;
    }
    if (n == 0) return;
    if (chosen[n - 1] - chosen[0] == n - 1) {
      body(tokens.from(chosen[0]), n);
      continue;
    }
    const auto gather = [&](const float* from, float* to) -> const float* {
      if (!from) return nullptr;
      for (int i = 0; i < n; ++i) to[i] = from[chosen[i]];
      return to;
    };
    const auto scatter = [&](const float* from, float* to) {
      if (to)
        for (int i = 0; i < n; ++i) to[chosen[i]] = from[i];
    };
    body({gather(tokens.log_probs, values[0]), gather(tokens.old_log_probs, values[1]),
          gather(tokens.ref_log_probs, values[2]), gather(tokens.rollout_log_probs, values[3]),
          gather(tokens.entropy, values[4]), gather(tokens.advantages, values[5]),
          tokens.grad_log_probs ? gradients[0] : nullptr, tokens.grad_entropy ? gradients[1] : nullptr},
         n);
    scatter(gradients[0], tokens.grad_log_probs);
    scatter(gradients[1], tokens.grad_entropy);
  }
}

SequenceSums sum_sequence(const PolicyTokens& all, const int32_t* mask, int64_t begin, int64_t end,
                          const PolicyOptions& options) {
  SequenceSums total = {};
  PolicyTokens inputs = all;
  inputs.grad_log_probs = inputs.grad_entropy = nullptr;
  for_active_blocks(inputs, mask, begin, end, [&](const PolicyTokens& tokens, int n) {
    SequenceParts<vfloat> sums = {};
    for (int i = 0; i < n; i += kWidth) {
      const vint valid = first_lanes(n - i);
      const vfloat zero = {};
      const SequenceParts<vfloat> parts = sequence_parts(load_token(tokens, i, n - i, 0.0f), options);
      sums.log_ratio += valid ? parts.log_ratio : zero;
      sums.clamped_log_ratio += valid ? parts.clamped_log_ratio : zero;
      sums.log_weight += valid ? parts.log_weight : zero;
      sums.divergence += valid ? parts.divergence : zero;
      sums.rollout_difference += valid ? parts.rollout_difference : zero;
    }
    total.log_ratio += reduce_add(sums.log_ratio);
    total.clamped_log_ratio += reduce_add(sums.clamped_log_ratio);
    total.log_weight += reduce_add(sums.log_weight);
    total.divergence += reduce_add(sums.divergence);
    total.rollout_difference += reduce_add(sums.rollout_difference);
  });
  return total;
}

// What a block adds up, in the lanes of vectors.
struct BlockSums {
  vfloat sums[kSumCount], acted, ratio_min, ratio_max, difference_max;
  vint valid;

  inline __attribute__((always_inline)) void add(int statistic, vfloat x) { sums[statistic] += valid ? x : vfloat{}; }
  inline __attribute__((always_inline)) void count(int statistic, vint mask) {
    sums[statistic] += valid & mask ? vset(1.0f) : vfloat{};
  }
  inline __attribute__((always_inline)) void acted_entropy(vfloat x) { acted += x; }
  inline __attribute__((always_inline)) void ratio(vfloat x) {
    ratio_min = vmin(valid ? x : ratio_min, ratio_min);
    ratio_max = vmax(valid ? x : ratio_max, ratio_max);
  }
  inline __attribute__((always_inline)) void difference(vfloat x) {
    difference_max = vmax(valid ? x : vset(-1.0f), difference_max);
  }
};

// Loss, gradients and statistics of a block of active tokens. Returns the sum of the derivatives through the ratio when
// it is the sequence's; the caller spreads that over the tokens.
double token_block(const PolicyTokens& tokens, int n, const PolicyOptions& options, const SequenceTerms& terms,
                   SequenceResult& result) {
  vfloat loss_sum = {}, through_ratio_sum = {};
  BlockSums block = {};
  block.ratio_min = vset(__builtin_inff());
  block.ratio_max = block.difference_max = -block.ratio_min;
  for (int i = 0; i < n; i += kWidth) {
    const int rest = n - i;
    const vint valid = block.valid = first_lanes(rest);
    const TokenLoss<vfloat> token =
        token_loss(load_token(tokens, i, rest, terms.advantage), options, terms, valid, block);
    loss_sum += valid ? token.loss : vfloat{};
    through_ratio_sum += valid ? token.through_ratio : vfloat{};
    store_tokens(tokens.grad_log_probs + i, rest, token.grad_log_prob);
    if (tokens.grad_entropy) store_tokens(tokens.grad_entropy + i, rest, token.grad_entropy);
  }

  result.loss += reduce_add(loss_sum);
  result.acted_entropy += reduce_add(block.acted);
  for (int k = 0; k < kSumCount; ++k) result.sums[k] += reduce_add(block.sums[k]);
  result.sums[kActiveTokens] += n;
  const auto extreme = [&](int statistic) -> float& { return result.extremes[statistic - kSumCount]; };
  extreme(kRatioMin) = std::min(extreme(kRatioMin), -reduce_max(-block.ratio_min));
  extreme(kRatioMax) = std::max(extreme(kRatioMax), reduce_max(block.ratio_max));
  extreme(kRolloutDifferenceMax) = std::max(extreme(kRolloutDifferenceMax), reduce_max(block.difference_max));
  return reduce_add(through_ratio_sum);
}
