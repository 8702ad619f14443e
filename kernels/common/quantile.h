// Where a quantile lies in a sorted list, and its value, interpolated linearly between two ranks (from 0).
#pragma once

#include <stdint.h>

#include "hd.h"

struct QuantilePlace {
  int64_t low, high;
  double part;  // of the way from `low` to `high`

  GRPO_HD_MEMBER float value(double at_low, double at_high) const {
    return static_cast<float>(at_low + (at_high - at_low) * part);
  }
};

// `count` is at least 1, `quantile` from 0 to 1.
GRPO_HD QuantilePlace quantile_place(double quantile, int64_t count) {
  const double position = quantile * static_cast<double>(count - 1);
  const int64_t low = static_cast<int64_t>(position);
  return {low, low + 1 < count ? low + 1 : count - 1, position - static_cast<double>(low)};
}
