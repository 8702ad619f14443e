// entropy_threshold. Compiled once an instruction set (isa/kernels.inc).

#include "../common/ordered_bits.h"
#include "../common/quantile.h"

int64_t count_active(const int32_t* mask, int64_t begin, int64_t end) {
  if (!mask) return end - begin;
  int64_t count = 0;
  for (int64_t t = begin; t < end; ++t) count += mask[t] != 0;
  return count;
}

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

grpo_status entropy_threshold(grpo_context& context, const grpo_entropy_threshold_args& args) {
  if (auto status = check_entropy_threshold(context, args)) return status;
  const float* entropy = float_data(args.entropy);
  const int32_t* mask = static_cast<const int32_t*>(args.mask.data);
  const int64_t tokens = args.entropy.shape[0], active = count_active(mask, 0, tokens);
  float* out = float_data(args.threshold);
  out[0] = out[1] = 0.0f;
  if (active == 0) return GRPO_OK;
  auto* histogram = static_cast<uint32_t*>(context.worker_scratch(0, 65536 * sizeof(uint32_t)));
  const auto value = [&](int64_t rank) { return active_value_of_rank(entropy, mask, tokens, rank, histogram); };
  const QuantilePlace place = quantile_place(1.0 - args.top_entropy_quantile, active);
  const float threshold = place.value(value(place.low), value(place.high));
  int64_t reached = 0;
  for (int64_t t = 0; t < tokens; ++t) reached += (!mask || mask[t]) && !(entropy[t] < threshold);
  out[0] = threshold;
  out[1] = static_cast<float>(static_cast<double>(reached) / static_cast<double>(active));
  return GRPO_OK;
}
