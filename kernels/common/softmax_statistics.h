// What is known of a softmax row, or of a part of it, after one read: enough for log-sum-exp, entropy and every
// log-prob (NUMERICS section 1), and for the gradient with one more read.
#pragma once

#include "hd.h"

// z = (softcap ? softcap * tanh(logit / softcap) : logit) * inverse_temperature.
struct RowTransform {
  float inverse_temperature;
  float softcap;  // 0: none
};

static inline RowTransform row_transform(double temperature, double softcap) {
  return {static_cast<float>(1.0 / temperature), static_cast<float>(softcap)};
}

// Loops over logits take powers of two, x = d log2 e.
constexpr float kLog2e = 1.44269504f;
constexpr double kLn2 = 0.69314718055994531;

// With d = (x - max) * inverse_temperature, x the logit after the soft cap: the sums over the part of exp(d) and of
// exp(d) * d. A part that is all -inf has max = -inf and sum = 0. NaN and +inf make the sum NaN.
struct RowStatistics {
  float max;
  double sum;
  double weighted;
};

GRPO_HD RowStatistics empty_row() { return {-__builtin_inff(), 0.0, 0.0}; }

// Two parts of a row as one. Not associative to the bit: callers keep to one order.
GRPO_HD RowStatistics join_statistics(const RowStatistics& a, const RowStatistics& b, float inverse_temperature) {
  if (b.sum == 0.0) return a;
  if (a.sum == 0.0) return b;
  const float max = a.max > b.max ? a.max : b.max;
  const double shift_a = a.max == max ? 0.0 : (static_cast<double>(a.max) - max) * inverse_temperature;
  const double shift_b = b.max == max ? 0.0 : (static_cast<double>(b.max) - max) * inverse_temperature;
  const double factor_a = shift_a == 0.0 ? 1.0 : exp(shift_a), factor_b = shift_b == 0.0 ? 1.0 : exp(shift_b);
  return {max, a.sum * factor_a + b.sum * factor_b,
          (a.weighted + a.sum * shift_a) * factor_a + (b.weighted + b.sum * shift_b) * factor_b};
}

// log p of the token with this logit (after the soft cap). Never above 0: both terms are at most 0.
GRPO_HD float row_log_prob(const RowStatistics& row, float logit, float inverse_temperature) {
  return static_cast<float>((logit - row.max) * inverse_temperature - log(row.sum));
}

GRPO_HD float row_log_sum_exp(const RowStatistics& row, float inverse_temperature) {
  return static_cast<float>(static_cast<double>(row.max) * inverse_temperature + log(row.sum));
}

// Entropy in nats. The size of the logits does not enter, so nothing cancels.
GRPO_HD float row_entropy(const RowStatistics& row) {
  const double entropy = log(row.sum) - row.weighted / row.sum;
  return static_cast<float>(entropy < 0.0 ? 0.0 : entropy);
}

// A slice of the vocabulary: (max z, sum exp(z - max), sum exp(z - max) * (z - max), z of the target); the last is 0
// when the target is in another slice.
struct PartialRow {
  float max, sum, weighted, target;
};

// An order of partials that depends on their values alone, so that the slices may come in any order.
GRPO_HD bool partial_before(const PartialRow& a, const PartialRow& b) {
  if (a.max != b.max) return a.max < b.max;
  if (a.sum != b.sum) return a.sum < b.sum;
  return a.weighted < b.weighted;
}

// The gradient of g * log p(target) + h * entropy with respect to a logit (before the soft cap's own factor):
//
//   (g * (1[target] - p) - h * p * (log p + entropy)) / T,   where log p + entropy = z - mean of z under p.
//
// All but the target's g / T is exp(d) * (d * slope + intercept) with d = (x - shift) / T.
struct RowGradient {
  float shift;
  float inverse_temperature;
  float slope;
  float intercept;
};

// From statistics in full precision: the shift is the row's maximum.
GRPO_HD RowGradient row_gradient(const RowStatistics& row, double g, double h, float inverse_temperature) {
  const double scale = inverse_temperature / row.sum, mean = row.weighted / row.sum;
  return {row.max, inverse_temperature, static_cast<float>(-h * scale), static_cast<float>((h * mean - g) * scale)};
}

// From log-sum-exp and entropy as stored. A float32 log-sum-exp makes every p off by a factor of up to
// 1 + 2^-24 |log_sum_exp|; callers that hold the whole row prefer fresh statistics where that is too much.
GRPO_HD RowGradient row_gradient(float log_sum_exp, float entropy, double g, double h, float inverse_temperature) {
  const double shift = static_cast<double>(log_sum_exp) / inverse_temperature;
  return {static_cast<float>(shift), inverse_temperature, static_cast<float>(-h * inverse_temperature),
          static_cast<float>((-h * entropy - g) * inverse_temperature)};
}

// Whether the gradient of a row needs its statistics anew: a float32 log-sum-exp of this size no longer gives p to
// 1e-5, and next to a flat row's entropy gradient h the rounding of log-sum-exp and entropy is large.
GRPO_HD bool needs_fresh_statistics(float log_sum_exp, double h) {
  return log_sum_exp > 64.0f || log_sum_exp < -64.0f || h != 0.0;
}
