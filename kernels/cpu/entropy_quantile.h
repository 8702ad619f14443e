// The threshold of the high-entropy mask: a quantile over the active tokens of a call. Included by policy_loss.cc.
#pragma once

#include "../common/ordered_bits.h"

// The value of rank `rank` (from 0) among the active tokens: a histogram over the upper half of the bits, then one over
// the lower half. `histogram` has 65,536 entries.
float active_value_of_rank(const float* values, const int32_t* mask, int64_t tokens, int64_t rank,
                           uint32_t* histogram) {
  uint32_t key = 0;
  for (const int shift : {16, 0}) {
    std::memset(histogram, 0, 65536 * sizeof *histogram);
    for (int64_t t = 0; t < tokens; ++t) {
      const uint32_t bits = ordered_bits(values[t]);
      if ((!mask || mask[t]) && (shift == 16 || bits >> 16 == key >> 16)) ++histogram[bits >> shift & 0xffffu];
    }
    uint32_t bin = 0;
    for (; rank >= histogram[bin]; ++bin) rank -= histogram[bin];
    key |= bin << shift;
  }
  return from_ordered_bits(key);
}

// The quantile of the active tokens' entropies, interpolated linearly between ranks; and how many tokens reach it.
struct EntropyQuantile {
  float threshold;
  int64_t reached;
};

EntropyQuantile entropy_quantile(grpo_context& context, const float* entropy, const int32_t* mask, int64_t tokens,
                                 int64_t active, double quantile) {
  auto* histogram = static_cast<uint32_t*>(context.worker_scratch(0, 65536 * sizeof(uint32_t)));
  const double position = quantile * static_cast<double>(active - 1);
  const int64_t rank = static_cast<int64_t>(position);
  const double low = active_value_of_rank(entropy, mask, tokens, rank, histogram);
  const double high = active_value_of_rank(entropy, mask, tokens, std::min(rank + 1, active - 1), histogram);
  const float threshold = static_cast<float>(low + (high - low) * (position - static_cast<double>(rank)));
  int64_t reached = 0;
  for (int64_t t = 0; t < tokens; ++t) reached += (!mask || mask[t]) && entropy[t] >= threshold;
  return {threshold, reached};
}
