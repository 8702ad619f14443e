// entropy_threshold: one block, since an update has few entropies beside its logits.

#include "operations.h"
// clang-format off
#include "../common/ordered_bits.h"
#include "../common/quantile.h"
// clang-format on

namespace grpo_cuda {

namespace {

constexpr int kThresholdThreads = 512;

struct ThresholdCall {
  const float* entropy;
  const int32_t* mask;  // may be null
  int64_t tokens;

  __device__ __forceinline__ bool is_active(int64_t t) const { return !mask || mask[t] != 0; }
};

// The entropy of rank `rank` (from 0) among the active tokens, eight bits at a time. All threads of the block call it.
__device__ float entropy_of_rank(const ThresholdCall& c, long long rank) {
  __shared__ unsigned histogram[256];
  __shared__ uint32_t found;
  __shared__ long long rest;
  if (threadIdx.x == 0) {
    found = 0;
    rest = rank;
  }
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (threadIdx.x < 256) histogram[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t prefix = found;
    for (int64_t t = threadIdx.x; t < c.tokens; t += kThresholdThreads) {
      const uint32_t bits = ordered_bits(c.entropy[t]);
      const bool same = shift == 24 || (bits ^ prefix) >> (shift + 8) == 0;
      if (c.is_active(t) && same) atomicAdd(&histogram[bits >> shift & 255u], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t bin = 0;
      for (; bin < 255 && rest >= histogram[bin]; ++bin) rest -= histogram[bin];
      found = prefix | bin << shift;
    }
  }
  __syncthreads();
  const float value = from_ordered_bits(found);
  __syncthreads();
  return value;
}

__global__ void __launch_bounds__(kThresholdThreads)
    entropy_threshold_kernel(ThresholdCall c, double quantile, float* out) {
  long long active = 0;
  for (int64_t t = threadIdx.x; t < c.tokens; t += kThresholdThreads) active += c.is_active(t);
  active = block_reduce<kThresholdThreads, Sum>(active);
  float threshold = 0.0f, share = 0.0f;
  if (active > 0) {
    const QuantilePlace place = quantile_place(quantile, active);
    const double low = entropy_of_rank(c, place.low), high = entropy_of_rank(c, place.high);
    threshold = place.value(low, high);
    long long reached = 0;
    for (int64_t t = threadIdx.x; t < c.tokens; t += kThresholdThreads)
      reached += c.is_active(t) && !(c.entropy[t] < threshold);
    reached = block_reduce<kThresholdThreads, Sum>(reached);
    share = static_cast<float>(static_cast<double>(reached) / static_cast<double>(active));
  }
  if (threadIdx.x == 0) {
    out[0] = threshold;
    out[1] = share;
  }
}

}  // namespace

grpo_status entropy_threshold(grpo_context& context, const grpo_entropy_threshold_args& args) {
  if (auto status = check_entropy_threshold(context, args)) return status;
  const ThresholdCall c = {float_data(args.entropy), int_data(args.mask), args.entropy.shape[0]};
  return launch(context, entropy_threshold_kernel, {dim3(1), dim3(kThresholdThreads)}, c,
                1.0 - args.top_entropy_quantile, float_data(args.threshold));
}

}  // namespace grpo_cuda
