// The policy loss of a token, composed of the formulas of policy_loss.h: masks, corrections, objective, KL and what the
// statistics count of it. F is float or a vector of tokens; Mask is what comparisons of F give.
#pragma once

#include "policy_terms.h"

// What is absent has no value, and its flag is not set.
template <class F>
struct PolicyToken {
  F log_prob, old_log_prob, ref_log_prob, rollout_log_prob, entropy, advantage;
  bool has_old, has_ref, has_rollout, has_entropy;

  GRPO_HD_MEMBER F log_ratio() const { return has_old ? log_prob - old_log_prob : splat<F>(0.0f); }
  // old - rollout; a rollout log-prob of NaN means that the sampler gave none, and counts as equal.
  GRPO_HD_MEMBER F rollout_difference() const {
    const F difference = (has_old ? old_log_prob : log_prob) - rollout_log_prob;
    return rollout_log_prob == rollout_log_prob ? difference : splat<F>(0.0f);
  }
};

// A token's part of SequenceSums.
template <class F>
struct SequenceParts {
  F log_ratio, clamped_log_ratio, log_weight, divergence, rollout_difference;
};

template <class F>
GRPO_HD SequenceParts<F> sequence_parts(const PolicyToken<F>& token, const PolicyOptions& options) {
  const F zero = splat<F>(0.0f), d = token.log_ratio();
  SequenceParts<F> parts = {d, at_least(at_most(d, kVespoMaxLogRatio), -kVespoMaxLogRatio), zero, -d, zero};
  if (token.has_rollout) {
    const F rollout = token.rollout_log_prob, x = token.rollout_difference();
    parts.divergence = rollout == rollout ? rollout - token.log_prob : zero;
    parts.rollout_difference = x;
    if (options.loss_type == GRPO_LOSS_VESPO && options.correction != GRPO_CORRECTION_NONE)
      parts.log_weight = log_correction_weight(x, options.correction, options.correction_min, options.correction_cap);
  }
  return parts;
}

template <class F>
struct TokenLoss {
  F loss;
  F through_ratio;  // derivative through the ratio when that is the sequence's, which spreads it over its tokens; else
                    // 0
  F grad_log_prob;
  F grad_entropy;
};

// `valid`: the tokens that there are. `sink` takes what the statistics and the loss add up: add(statistic, x),
// count(statistic, mask), acted_entropy(x), ratio(x) and difference(x) for the extremes, each for valid tokens only.
template <class F, class Mask, class Sink>
GRPO_HD TokenLoss<F> token_loss(const PolicyToken<F>& token, const PolicyOptions& options, const SequenceTerms& terms,
                                Mask valid, Sink& sink) {
  const F zero = splat<F>(0.0f), lp = token.log_prob, advantage = token.advantage, d = token.log_ratio();
  const F ratio = options.sequence_level ? splat<F>(terms.ratio) : ratio_of(d);
  const Objective<F> objective = objective_of(options, terms, ratio, advantage, lp);

  // The masks and the correction, as one weight.
  F weight = splat<F>(1.0f);
  Mask kept = valid;
  if (token.has_entropy) {
    sink.add(kEntropySum, token.entropy);
    // An entropy of NaN is kept, so that it is not hidden.
    if (options.high_entropy_mask) kept = token.entropy < options.entropy_threshold ? Mask{} : kept;
    sink.acted_entropy(kept ? token.entropy : zero);
  }
  sink.count(kHighEntropySum, kept);
  weight = kept ? weight : zero;
  if (options.off_policy_mask && !terms.near_policy) {
    const Mask dropped = advantage < 0.0f;
    weight = dropped ? zero : weight;
    sink.count(kOffPolicyMaskedSum, dropped);
  }
  if (token.has_rollout) {
    const F x = token.rollout_difference(), magnitude = x < 0.0f ? -x : x;
    F correction = splat<F>(terms.correction);
    if (!options.correction_of_sequences()) {
      correction = options.correction == GRPO_CORRECTION_NONE
                       ? ratio_of(x)
                       : correction_weight(x, options.correction, options.correction_min, options.correction_cap);
    }
    sink.add(kRolloutDifferenceSum, magnitude);
    sink.add(kRolloutKlSum, exp_less_linear(at_most(x, kMaxExponent)));
    sink.add(kRolloutWeightSum, correction);
    sink.add(kRolloutWeightSquareSum, correction * correction);
    sink.count(kRolloutMaskedSum, correction == 0.0f);
    sink.difference(magnitude);
    // VESPO's phi holds the correction already.
    if (options.correction != GRPO_CORRECTION_NONE && options.loss_type != GRPO_LOSS_VESPO)
      weight = weight * correction;
  }

  // Select before multiplying: a dropped token's loss may be infinite.
  const Mask none = weight == 0.0f;
  F loss = none ? zero : objective.loss * weight;
  F through_ratio = none ? zero : objective.through_ratio * weight;
  F through_log_prob = none ? zero : objective.through_log_prob * weight;
  if (token.has_ref) {
    KlEstimate<F> kl = kl_estimate(token.ref_log_prob - lp, options.kl_estimator);
    if (options.bias_corrected_kl) {
      kl = {kl.value * ratio, kl.slope * ratio};
      through_ratio = through_ratio + options.beta * kl.value;
    }
    sink.add(kKlSum, kl.value);
    if (options.beta != 0.0f) {
      loss = loss + options.beta * kl.value;
      through_log_prob = through_log_prob + options.beta * kl.slope;
    }
  }

  sink.add(kRatioSum, ratio);
  sink.add(kPolicyKlSum, exp_less_linear(at_most(d, kMaxExponent)));
  sink.count(kLowClippedSum, (ratio < options.low) & (advantage < 0.0f));
  sink.count(kHighClippedSum, (ratio > options.high) & (advantage > 0.0f));
  sink.add(kPhiSum, advantage >= 0.0f ? splat<F>(terms.phi_positive) : splat<F>(terms.phi_negative));
  sink.ratio(ratio);
  const F gradient = options.sequence_level ? through_log_prob : through_log_prob + through_ratio;
  return {loss, options.sequence_level ? through_ratio : zero, gradient * terms.scale,
          kept ? splat<F>(options.grad_entropy) : zero};
}
