// What the policy losses of policy_loss.h are given: the options of a call, what the tokens of a sequence share, and
// what a sequence adds to the call's loss and statistics.
#pragma once

#include "policy_loss.h"

struct PolicyOptions {
  int loss_type;
  bool sequence_level;
  float low, high;  // bounds of the ratio; CISPO's cap is `high`
  float delta;
  float beta;
  int kl_estimator;
  bool bias_corrected_kl;
  bool off_policy_mask;
  double off_policy_threshold;
  bool high_entropy_mask;
  float entropy_threshold;  // the caller's to set, as is the next
  float grad_entropy;       // of a token that the bonus acts on
  float sapo_positive, sapo_negative;
  double vespo_k_positive, vespo_lambda_positive, vespo_k_negative, vespo_lambda_negative;
  int correction;
  float correction_min, correction_cap;
  bool correction_geometric;

  GRPO_HD_MEMBER bool correction_of_sequences() const {
    return correction == GRPO_CORRECTION_SEQUENCE_TRUNCATE || correction == GRPO_CORRECTION_SEQUENCE_MASK;
  }
  GRPO_HD_MEMBER bool needs_sequence_statistics() const {
    return sequence_level || off_policy_mask || correction_of_sequences() || loss_type == GRPO_LOSS_VESPO;
  }
};

// What all tokens of a sequence share.
struct SequenceTerms {
  float advantage;
  float ratio;
  float correction;
  float phi_positive, phi_negative;
  bool near_policy;  // the off-policy mask keeps it whatever its advantage
  float scale;
};

struct SequenceResult {
  double loss;
  double acted_entropy;  // of the tokens that the bonus acts on
  double sums[kSumCount];
  float extremes[kStatisticCount - kSumCount];
};

// Sums over a sequence that its tokens' losses depend on.
struct SequenceSums {
  double log_ratio;           // lp - old
  double clamped_log_ratio;   // each token's within +-20 (VESPO)
  double log_weight;          // of the token's rollout correction, clamped (VESPO)
  double divergence;          // rollout (else old) - lp
  double rollout_difference;  // old - rollout
};

GRPO_HD SequenceTerms sequence_terms(const SequenceSums& sums, double tokens, float advantage, double scale,
                                     const PolicyOptions& options) {
  const double count = tokens < 1.0 ? 1.0 : tokens;
  SequenceTerms terms = {advantage, 1.0f, 1.0f, 1.0f, 1.0f, true, static_cast<float>(scale)};
  if (options.sequence_level) terms.ratio = ratio_of(static_cast<float>(sums.log_ratio / count));
  if (options.correction_of_sequences()) {
    const double x = options.correction_geometric ? sums.rollout_difference / count : sums.rollout_difference;
    terms.correction =
        correction_weight(static_cast<float>(x), options.correction, options.correction_min, options.correction_cap);
  }
  if (options.loss_type == GRPO_LOSS_VESPO) {
    const double log_weight = sums.clamped_log_ratio + sums.log_weight;
    terms.phi_positive =
        static_cast<float>(vespo_phi(log_weight, options.vespo_k_positive, options.vespo_lambda_positive));
    terms.phi_negative =
        static_cast<float>(vespo_phi(log_weight, options.vespo_k_negative, options.vespo_lambda_negative));
  }
  if (options.off_policy_mask) terms.near_policy = sums.divergence / count <= options.off_policy_threshold;
  return terms;
}

// Of the entropy bonus, a mean over the tokens that it acts on: a share of those of the denominator.
GRPO_HD double scale_of_entropy(double coefficient, double token_denominator, double acted_on) {
  return acted_on > 0.0 ? -coefficient / (token_denominator * acted_on) : 0.0;
}

template <class F>
GRPO_HD Objective<F> objective_of(const PolicyOptions& options, const SequenceTerms& terms, F ratio, F advantage,
                                  F log_prob) {
  switch (options.loss_type) {
    case GRPO_LOSS_CISPO:
      return cispo_objective(ratio, advantage, log_prob, options.high);
    case GRPO_LOSS_SAPO:
      return sapo_objective(ratio, advantage, options.sapo_positive, options.sapo_negative);
    case GRPO_LOSS_VESPO:
      return vespo_objective(advantage, log_prob, terms.phi_positive, terms.phi_negative);
    default:
      return clipped_objective(ratio, advantage, options.low, options.high, options.delta);
  }
}

GRPO_HD bool is_minimum(int statistic) { return statistic == kRatioMin || statistic == kLowClippedMin; }

GRPO_HD SequenceResult empty_result() {
  SequenceResult result = {};
  for (int k = kSumCount; k < kStatisticCount; ++k)
    result.extremes[k - kSumCount] = is_minimum(k) ? __builtin_inff() : -__builtin_inff();
  return result;
}

static inline PolicyOptions policy_options(const grpo_policy_loss_args& args) {
  const auto number = [](double x) { return static_cast<float>(x); };
  PolicyOptions o = {};
  o.loss_type = static_cast<int>(args.loss_type);
  o.sequence_level = args.sequence_level != 0.0;
  const bool bounded = o.loss_type <= GRPO_LOSS_LUSPO;
  o.low = bounded ? number(1.0 - args.epsilon) : -1.0f;
  o.high = bounded                          ? number(1.0 + args.epsilon_high)
           : o.loss_type == GRPO_LOSS_CISPO ? number(args.epsilon_high)
                                            : __builtin_inff();
  o.delta = number(args.delta);
  o.beta = number(args.beta);
  o.kl_estimator = static_cast<int>(args.kl_estimator);
  o.bias_corrected_kl = args.bias_corrected_kl != 0.0;
  o.off_policy_mask = std::isfinite(args.off_policy_mask_threshold);
  o.off_policy_threshold = args.off_policy_mask_threshold;
  o.high_entropy_mask = args.entropy_threshold.data != nullptr;
  o.sapo_positive = number(args.sapo_temperature_positive);
  o.sapo_negative = number(args.sapo_temperature_negative);
  o.vespo_k_positive = args.vespo_k_positive;
  o.vespo_lambda_positive = args.vespo_lambda_positive;
  o.vespo_k_negative = args.vespo_k_negative;
  o.vespo_lambda_negative = args.vespo_lambda_negative;
  o.correction = static_cast<int>(args.rollout_correction);
  o.correction_min = number(args.rollout_min);
  o.correction_cap = number(args.rollout_cap);
  o.correction_geometric = args.rollout_geometric != 0.0;
  return o;
}
