// A call of policy_loss as kernels see it, and what its tokens share.
#pragma once

#include "operations.h"
// clang-format off
#include "../common/policy_token.h"
// clang-format on

namespace grpo_cuda {

// Tensors of a call; those that may be absent are null.
struct PolicyCall {
  const float *log_probs, *old_log_probs, *ref_log_probs, *rollout_log_probs, *entropy, *entropy_threshold, *advantages;
  const int32_t *mask, *offsets;
  float *grad_log_probs, *grad_entropy, *loss, *statistics;
  int64_t tokens, sequences;
  bool sequence_advantages;
  double token_denominator, sequence_denominator, max_completion_length, entropy_coefficient;
};

__device__ __forceinline__ bool is_active(const PolicyCall& c, int64_t t) { return !c.mask || c.mask[t] != 0; }

// Without a mask the active tokens are all there are: nothing has to count them.
inline PolicyCall policy_call(const grpo_policy_loss_args& args) {
  const int64_t sequences = args.sequence_offsets.shape[0] - 1, tokens = args.log_probs.shape[0];
  const bool counted = args.token_denominator > 0.0 || args.mask.data;
  return {float_data(args.log_probs),
          float_data(args.old_log_probs),
          float_data(args.ref_log_probs),
          float_data(args.rollout_log_probs),
          float_data(args.entropy),
          float_data(args.entropy_threshold),
          float_data(args.advantages),
          int_data(args.mask),
          int_data(args.sequence_offsets),
          float_data(args.grad_log_probs),
          float_data(args.grad_entropy),
          float_data(args.loss),
          float_data(args.statistics),
          tokens,
          sequences,
          args.advantages.shape[0] == sequences,
          counted ? args.token_denominator : std::max(1.0, static_cast<double>(tokens)),
          args.sequence_denominator,
          args.max_completion_length,
          args.entropy_coefficient};
}

// Queues the count of the call's active tokens, where they are its denominator; then `active` points to it, else it is
// nullptr. `place`: device memory for the count.
grpo_status count_active(grpo_context& context, const PolicyCall& c, void* place, const long long** active);

// What a call's loss is divided by. Sets what only the device knows of the options.
struct CallScales {
  double token_denominator, sequence_denominator, entropy_scale;
};
__device__ __forceinline__ CallScales call_scales(const PolicyCall& c, const long long* active,
                                                  PolicyOptions& options) {
  CallScales scales;
  scales.token_denominator = !active ? c.token_denominator : *active < 1 ? 1.0 : static_cast<double>(*active);
  scales.sequence_denominator = c.sequence_denominator > 0.0 ? c.sequence_denominator
                                : c.sequences < 1            ? 1.0
                                                             : static_cast<double>(c.sequences);
  double acted_on = 1.0;
  if (options.high_entropy_mask) {
    options.entropy_threshold = c.entropy_threshold[0];
    acted_on = c.entropy_threshold[1];
  }
  scales.entropy_scale = scale_of_entropy(c.entropy_coefficient, scales.token_denominator, acted_on);
  options.grad_entropy = static_cast<float>(scales.entropy_scale);
  return scales;
}

// The active tokens of a sequence, in every thread of a block of kThreads.
template <int kThreads>
__device__ __forceinline__ double count_of_sequence(const PolicyCall& c, int64_t begin, int64_t end) {
  double count = 0.0;
  for (int64_t t = begin + threadIdx.x; t < end; t += kThreads) count += is_active(c, t);
  return block_reduce<kThreads, Sum>(count);
}

// Of sequence b, `count` of whose tokens are active; `sums` are 0 where the options do not need them.
__device__ __forceinline__ SequenceTerms terms_of_sequence(const PolicyCall& c, int64_t b, double count, double scale,
                                                           const SequenceSums& sums, const PolicyOptions& options) {
  return sequence_terms(sums, count, c.sequence_advantages ? c.advantages[b] : 0.0f, scale, options);
}

// `advantage` is that of the token's sequence.
__device__ __forceinline__ PolicyToken<float> load_token(const PolicyCall& c, int64_t t, float log_prob, float entropy,
                                                         float advantage) {
  const auto load = [&](const float* p) { return p ? p[t] : 0.0f; };
  return {log_prob,
          load(c.old_log_probs),
          load(c.ref_log_probs),
          load(c.rollout_log_probs),
          entropy,
          c.sequence_advantages ? advantage : c.advantages[t],
          c.old_log_probs != nullptr,
          c.ref_log_probs != nullptr,
          c.rollout_log_probs != nullptr,
          c.entropy != nullptr};
}

}  // namespace grpo_cuda
