// The policy losses and their derivatives (NUMERICS section 4), each once. F is float, or a vector of floats whose
// comparisons give lane masks; the including file supplies hd_exp(F), an exp of one float or of each lane, before this
// header is included for vectors.
//
// A formula gives its value and two derivatives: through the log importance ratio, which at sequence level is shared by
// all tokens of the sequence, and through the token's own log-prob.
#pragma once

#include "../include/grpo.h"
#include "hd.h"

// Ratios are exponentials of at most this, so that a ratio and what it is multiplied by stay finite in float32.
constexpr float kMaxExponent = 80.0f;
// Clamps of VESPO's log weights, as published with it.
constexpr float kVespoMaxLogRatio = 20.0f;
constexpr float kVespoMinLogWeight = -18.420681f;  // ln 1e-8

GRPO_HD float hd_exp(float x) { return expf(x); }

template <class F>
GRPO_HD F splat(float x) {
  return x - F{};
}
template <class F>
GRPO_HD F at_most(F x, float bound) {
  return x > bound ? splat<F>(bound) : x;
}
template <class F>
GRPO_HD F at_least(F x, float bound) {
  return x < bound ? splat<F>(bound) : x;
}
template <class F>
GRPO_HD F ratio_of(F log_ratio) {
  return hd_exp(at_most(log_ratio, kMaxExponent));
}

// exp(x) - 1 - x to full relative precision: a series where the difference would cancel.
template <class F>
GRPO_HD F exp_less_linear(F x) {
  F q = splat<F>(1.0f / 362880.0f);
  q = q * x + 1.0f / 40320.0f;
  q = q * x + 1.0f / 5040.0f;
  q = q * x + 1.0f / 720.0f;
  q = q * x + 1.0f / 120.0f;
  q = q * x + 1.0f / 24.0f;
  q = q * x + 1.0f / 6.0f;
  q = q * x + 0.5f;
  const F near = x * x * q, far = hd_exp(x) - 1.0f - x;
  return ((x < 0.5f) & (x > -0.5f)) ? near : far;
}

// ---- KL to the reference, x = ref - lp (Schulman, "Approximating KL divergence", 2020) ----

template <class F>
struct KlEstimate {
  F value;
  F slope;  // derivative with respect to lp
};

template <class F>
GRPO_HD KlEstimate<F> kl_estimate(F ref_minus_lp, int estimator) {
  const F x = at_most(ref_minus_lp, kMaxExponent);
  if (estimator == GRPO_KL_K1) return {-x, splat<F>(1.0f)};
  if (estimator == GRPO_KL_K2) return {x * x * 0.5f, -x};
  const F k3 = exp_less_linear(x);
  return {k3, -(x + k3)};
}

// ---- the objectives ----

template <class F>
struct Objective {
  F loss;
  F through_ratio;     // d loss / d log ratio
  F through_log_prob;  // d loss / d lp, with the ratio held
};

// PPO's clipped surrogate with asymmetric bounds (DAPO, arXiv:2503.14476, eq. 8), the ratio optionally capped by delta
// (INTELLECT-2, arXiv:2505.07291). A ratio on a bound counts as inside.
template <class F>
GRPO_HD Objective<F> clipped_objective(F ratio, F advantage, float low, float high, float delta) {
  const F unclipped = at_most(ratio, delta) * advantage;
  const F clipped = at_least(at_most(ratio, high), low) * advantage;
  const F slope = -advantage * ratio, none = splat<F>(0.0f);
  const F unclipped_slope = ratio <= delta ? slope : none;
  const F clipped_slope = ((ratio >= low) & (ratio <= high)) ? slope : none;
  const auto takes_unclipped = unclipped <= clipped;
  return {-(takes_unclipped ? unclipped : clipped), takes_unclipped ? unclipped_slope : clipped_slope, none};
}

// CISPO (arXiv:2506.13585, eq. 4): the capped ratio weighs the log-likelihood and has no gradient.
template <class F>
GRPO_HD Objective<F> cispo_objective(F ratio, F advantage, F log_prob, float cap) {
  const F weight = -at_most(ratio, cap) * advantage, none = splat<F>(0.0f);
  return {advantage == 0.0f ? none : weight * log_prob, none, weight};
}

// SAPO (arXiv:2511.20347): a sigmoid gate around ratio 1 in place of the clip.
template <class F>
GRPO_HD Objective<F> sapo_objective(F ratio, F advantage, float temperature_positive, float temperature_negative) {
  const F temperature = advantage > 0.0f ? splat<F>(temperature_positive) : splat<F>(temperature_negative);
  const F y = temperature * (ratio - 1.0f);
  const F decay = hd_exp(y > 0.0f ? -y : y);  // at most 1
  const F inverse = 1.0f / (1.0f + decay);
  const F gate = y > 0.0f ? inverse : decay * inverse;
  return {-4.0f * gate / temperature * advantage, -4.0f * decay * inverse * inverse * ratio * advantage,
          splat<F>(0.0f)};
}

// VESPO (arXiv:2602.10693): the log-likelihood weighed by phi of the sequence's weight, without gradient.
template <class F>
GRPO_HD Objective<F> vespo_objective(F advantage, F log_prob, float phi_positive, float phi_negative) {
  const F phi = advantage >= 0.0f ? splat<F>(phi_positive) : splat<F>(phi_negative);
  const F weight = -phi * advantage, none = splat<F>(0.0f);
  return {advantage == 0.0f ? none : weight * log_prob, none, weight};
}

// phi(w) = exp(lambda) w^k exp(-lambda w), from log w; phi(1) = 1.
GRPO_HD double vespo_phi(double log_weight, double k, double lambda) {
  const double least = lambda < 1e-4 ? 1e-4 : lambda;
  const double log_w = log_weight < kVespoMinLogWeight  ? kVespoMinLogWeight
                       : log_weight > kVespoMaxLogRatio ? kVespoMaxLogRatio
                                                        : log_weight;
  const double phi = exp(least + k * log_w - least * exp(log_w));
  return phi <= 1.7976931348623157e308 ? phi : 0.0;
}

// ---- rollout correction, x = old - rollout ----

// The weight of an importance ratio: truncated to [least, cap], or 0 outside of it.
template <class F>
GRPO_HD F correction_weight(F log_ratio, int mode, float least, float cap) {
  const F weight = ratio_of(log_ratio);
  if (mode == GRPO_CORRECTION_TOKEN_TRUNCATE || mode == GRPO_CORRECTION_SEQUENCE_TRUNCATE)
    return at_most(at_least(weight, least), cap);
  return ((weight >= least) & (weight <= cap)) ? weight : splat<F>(0.0f);
}

// Its logarithm, as VESPO adds it to a sequence's log weight; a token of weight 0 counts as 1e-8.
template <class F>
GRPO_HD F log_correction_weight(F log_ratio, int mode, float least, float cap) {
  const F dropped = splat<F>(kVespoMinLogWeight);
  F log_weight;
  if (mode == GRPO_CORRECTION_TOKEN_TRUNCATE) {
    log_weight = at_most(at_least(log_ratio, logf(least)), logf(cap));
  } else {
    const F weight = ratio_of(log_ratio);
    log_weight = ((weight >= least) & (weight <= cap)) ? log_ratio : dropped;
  }
  return at_least(at_most(log_weight, kVespoMaxLogRatio), kVespoMinLogWeight);
}

// ---- reduction ----

// What a token's loss is multiplied by: `tokens` of its sequence are active; the denominators are those of the whole
// optimiser batch.
GRPO_HD double loss_scale(int loss_type, double tokens, double token_denominator, double sequence_denominator,
                          double max_completion_length) {
  switch (loss_type) {
    case GRPO_LOSS_GRPO:
    case GRPO_LOSS_SAPO:
      return 1.0 / ((tokens < 1.0 ? 1.0 : tokens) * sequence_denominator);
    case GRPO_LOSS_DR_GRPO:
      return 1.0 / (sequence_denominator * max_completion_length);
    case GRPO_LOSS_LUSPO:
      return 1.0 / sequence_denominator;
    default:
      return 1.0 / token_denominator;
  }
}

// ---- statistics of a call ----

// In the order of the `statistics` tensor: sums over active tokens first (calls and ranks are added up), then extremes.
// The twin of this list is in src/kernels/policy-statistics.ts.
enum PolicyStatistic {
  kActiveTokens,
  kSequences,  // with at least one active token
  kKlSum,
  kEntropySum,
  kRatioSum,
  kPolicyKlSum,           // k3 of old against lp
  kLowClippedSum,         // ratio below the lower bound with a negative advantage
  kHighClippedSum,        // ratio above the upper bound with a positive advantage
  kOffPolicyMaskedSum,    // tokens dropped by the off-policy sequence mask
  kHighEntropySum,        // tokens kept by the high-entropy mask
  kPhiSum,                // VESPO's weights
  kRolloutDifferenceSum,  // |old - rollout|
  kRolloutKlSum,          // k3 of rollout against old
  kRolloutWeightSum,
  kRolloutWeightSquareSum,
  kRolloutMaskedSum,  // tokens whose correction weight is 0
  kSumCount,
  kRatioMin = kSumCount,
  kLowClippedMin,  // share of a sequence's tokens, least over sequences
  kRatioMax,
  kHighClippedMax,
  kRolloutDifferenceMax,
  kStatisticCount
};
