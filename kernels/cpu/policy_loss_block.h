// One sequence of the policy loss: blocks of its active tokens, what they share, and the loss, gradients and statistics
// of a block. Included by policy_loss.cc.
#pragma once

SIMD vfloat hd_exp(vfloat x) { return vexp(x); }

#include "../common/policy_terms.h"

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

// old - rollout; a rollout log-prob of NaN means that the sampler gave none, and counts as equal.
SIMD vfloat rollout_difference(const PolicyTokens& tokens, int i, int n) {
  const vfloat rollout = load_tokens(tokens.rollout_log_probs + i, n);
  const float* old = tokens.old_log_probs ? tokens.old_log_probs : tokens.log_probs;
  return rollout == rollout ? load_tokens(old + i, n) - rollout : vset(0.0f);
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
    vfloat log_ratio = {}, clamped = {}, log_weight = {}, divergence = {}, difference = {};
    for (int i = 0; i < n; i += kWidth) {
      const vint valid = first_lanes(n - i);
      const vfloat zero = vset(0.0f), lp = load_tokens(tokens.log_probs + i, n - i);
      const vfloat d = tokens.old_log_probs ? lp - load_tokens(tokens.old_log_probs + i, n - i) : zero;
      log_ratio += valid ? d : zero;
      clamped += valid ? at_least(at_most(d, kVespoMaxLogRatio), -kVespoMaxLogRatio) : zero;
      vfloat away = -d;
      if (tokens.rollout_log_probs) {
        const vfloat x = rollout_difference(tokens, i, n - i);
        const vfloat rollout = load_tokens(tokens.rollout_log_probs + i, n - i);
        away = rollout == rollout ? rollout - lp : zero;
        difference += valid ? x : zero;
        if (options.loss_type == GRPO_LOSS_VESPO && options.correction != GRPO_CORRECTION_NONE) {
          const vfloat log =
              log_correction_weight(x, options.correction, options.correction_min, options.correction_cap);
          log_weight += valid ? log : zero;
        }
      }
      divergence += valid ? away : zero;
    }
    total.log_ratio += reduce_add(log_ratio);
    total.clamped_log_ratio += reduce_add(clamped);
    total.log_weight += reduce_add(log_weight);
    total.divergence += reduce_add(divergence);
    total.rollout_difference += reduce_add(difference);
  });
  return total;
}

// Loss, gradients and statistics of a block of active tokens. Returns the sum of the derivatives through the ratio when
// it is the sequence's; the caller spreads that over the tokens.
double token_block(const PolicyTokens& tokens, int n, const PolicyOptions& options, const SequenceTerms& terms,
                   SequenceResult& result) {
  const vfloat zero = vset(0.0f), one = vset(1.0f);
  vfloat loss_sum = zero, through_ratio_sum = zero, acted_entropy = zero;
  vfloat sums[kSumCount] = {};
  vfloat ratio_min = vset(__builtin_inff()), ratio_max = -ratio_min, difference_max = -ratio_min;

  for (int i = 0; i < n; i += kWidth) {
    const int rest = n - i;
    const vint valid = first_lanes(rest);
    const auto add = [&](int statistic, vfloat x) { sums[statistic] += valid ? x : zero; };
    const auto count = [&](int statistic, vint mask) { sums[statistic] += valid & mask ? one : zero; };

    const vfloat lp = load_tokens(tokens.log_probs + i, rest);
    const vfloat advantage = tokens.advantages ? load_tokens(tokens.advantages + i, rest) : vset(terms.advantage);
    const vfloat d = tokens.old_log_probs ? lp - load_tokens(tokens.old_log_probs + i, rest) : zero;
    const vfloat ratio = options.sequence_level ? vset(terms.ratio) : ratio_of(d);
    const Objective<vfloat> objective = objective_of(options, terms, ratio, advantage, lp);

    // The masks and the correction, as one weight.
    vfloat weight = one;
    vint kept = valid;
    if (tokens.entropy) {
      const vfloat entropy = load_tokens(tokens.entropy + i, rest);
      add(kEntropySum, entropy);
      if (options.high_entropy_mask) kept = kept & (entropy >= options.entropy_threshold);
      acted_entropy += kept ? entropy : zero;
    }
    count(kHighEntropySum, kept);
    weight = kept ? weight : zero;
    if (options.off_policy_mask && !terms.near_policy) {
      const vint dropped = advantage < 0.0f;
      weight = dropped ? zero : weight;
      count(kOffPolicyMaskedSum, dropped);
    }
    if (tokens.rollout_log_probs) {
      const vfloat x = rollout_difference(tokens, i, rest);
      const vfloat magnitude = x < 0.0f ? -x : x;
      vfloat correction = vset(terms.correction);
      if (!options.correction_of_sequences()) {
        correction = options.correction == GRPO_CORRECTION_NONE
                         ? ratio_of(x)
                         : correction_weight(x, options.correction, options.correction_min, options.correction_cap);
      }
      add(kRolloutDifferenceSum, magnitude);
      add(kRolloutKlSum, exp_less_linear(at_most(x, kMaxExponent)));
      add(kRolloutWeightSum, correction);
      add(kRolloutWeightSquareSum, correction * correction);
      count(kRolloutMaskedSum, correction == 0.0f);
      difference_max = vmax(valid ? magnitude : -one, difference_max);
      // VESPO's phi holds the correction already.
      if (options.correction != GRPO_CORRECTION_NONE && options.loss_type != GRPO_LOSS_VESPO) weight *= correction;
    }

    // Select before multiplying: a dropped token's loss may be infinite.
    const auto weighted = [&](vfloat x) { return weight == 0.0f ? zero : x * weight; };
    vfloat loss = weighted(objective.loss);
    vfloat through_ratio = weighted(objective.through_ratio);
    vfloat through_log_prob = weighted(objective.through_log_prob);
    if (tokens.ref_log_probs) {
      KlEstimate<vfloat> kl = kl_estimate(load_tokens(tokens.ref_log_probs + i, rest) - lp, options.kl_estimator);
      if (options.bias_corrected_kl) {
        kl = {kl.value * ratio, kl.slope * ratio};
        through_ratio += options.beta * kl.value;
      }
      add(kKlSum, kl.value);
      if (options.beta != 0.0f) {
        loss += options.beta * kl.value;
        through_log_prob += options.beta * kl.slope;
      }
    }

    loss_sum += valid ? loss : zero;
    vfloat gradient = through_log_prob;
    if (options.sequence_level)
      through_ratio_sum += valid ? through_ratio : zero;
    else
      gradient += through_ratio;
    store_tokens(tokens.grad_log_probs + i, rest, gradient * terms.scale);
    if (tokens.grad_entropy) store_tokens(tokens.grad_entropy + i, rest, kept ? vset(options.grad_entropy) : zero);

    add(kRatioSum, ratio);
    add(kPolicyKlSum, exp_less_linear(at_most(d, kMaxExponent)));
    count(kLowClippedSum, (ratio < options.low) & (advantage < 0.0f));
    count(kHighClippedSum, (ratio > options.high) & (advantage > 0.0f));
    add(kPhiSum, advantage >= 0.0f ? vset(terms.phi_positive) : vset(terms.phi_negative));
    ratio_min = vmin(valid ? ratio : ratio_min, ratio_min);
    ratio_max = vmax(valid ? ratio : ratio_max, ratio_max);
  }

  result.loss += reduce_add(loss_sum);
  result.acted_entropy += reduce_add(acted_entropy);
  for (int k = 0; k < kSumCount; ++k) result.sums[k] += reduce_add(sums[k]);
  result.sums[kActiveTokens] += n;
  const auto extreme = [&](int statistic) -> float& { return result.extremes[statistic - kSumCount]; };
  extreme(kRatioMin) = std::min(extreme(kRatioMin), -reduce_max(-ratio_min));
  extreme(kRatioMax) = std::max(extreme(kRatioMax), reduce_max(ratio_max));
  extreme(kRolloutDifferenceMax) = std::max(extreme(kRolloutDifferenceMax), reduce_max(difference_max));
  return reduce_add(through_ratio_sum);
}
