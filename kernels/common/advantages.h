// Rewards of a group to advantages (NUMERICS section 3), in double. The formulas of GRPO (arXiv:2402.03300, eq. 3 and
// 4.1.2), Dr. GRPO (arXiv:2503.20783) and RLOO (arXiv:2402.14740).
#pragma once

#include "../include/grpo.h"
#include "hd.h"

// Scorable rewards (those that are not NaN) of one group or of the whole batch.
struct RewardMoments {
  int64_t count;
  double mean;
  double deviation;  // sample standard deviation (n - 1); 0 below two rewards
  bool all_equal;
};

GRPO_HD RewardMoments reward_moments(const float* rewards, int64_t n) {
  // Deviations from the first reward: equal rewards then give exactly zero, whatever their value.
  int64_t count = 0;
  double first = 0.0, sum = 0.0;
  bool all_equal = true;
  for (int64_t i = 0; i < n; ++i) {
    if (rewards[i] != rewards[i]) continue;
    if (count++ == 0) first = rewards[i];
    all_equal = all_equal && rewards[i] == first;
    sum += rewards[i] - first;
  }
  const double shift = count > 0 ? sum / count : 0.0;
  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double deviation = rewards[i] - first - shift;
    if (rewards[i] == rewards[i]) squares += deviation * deviation;
  }
  return {count, first + shift, count > 1 ? sqrt(squares / (count - 1)) : 0.0, all_equal};
}

// `divisor` is what the scale setting divides by. NaN and groups without two different rewards give 0.
GRPO_HD float group_advantage(double reward, const RewardMoments& group, int baseline, double divisor) {
  if (reward != reward || group.all_equal) return 0.0f;
  double centred = reward;
  if (baseline == GRPO_BASELINE_MEAN) centred = reward - group.mean;
  // R - (sum - R) / (n - 1) = (R - mean) * n / (n - 1).
  if (baseline == GRPO_BASELINE_LEAVE_ONE_OUT) centred = (reward - group.mean) * group.count / (group.count - 1);
  return static_cast<float>(centred / divisor);
}
