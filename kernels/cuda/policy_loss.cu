// policy_loss: one launch, and one before it where the active tokens of a mask are its denominator.
//
// A block takes a sequence. Each of its threads adds up every 256th token in float64, then the threads are joined in a
// fixed order; the last block to end joins the sequences in order. Masked tokens are skipped.

#include "policy_call.h"

namespace grpo_cuda {

namespace {

constexpr int kSequenceThreads = 256;
constexpr int kCallThreads = 512;

__global__ void __launch_bounds__(kCallThreads) count_active_kernel(PolicyCall c, long long* out) {
  long long active = 0;
  for (int64_t t = threadIdx.x; t < c.tokens; t += kCallThreads) active += is_active(c, t);
  active = block_reduce<kCallThreads, Sum>(active);
  if (threadIdx.x == 0) *out = active;
}

// ---- a sequence ----

__device__ __forceinline__ PolicyToken<float> load_token(const PolicyCall& c, int64_t t, float advantage) {
  return load_token(c, t, c.log_probs[t], c.entropy ? c.entropy[t] : 0.0f, advantage);
}

__device__ SequenceSums sum_sequence(const PolicyCall& c, int64_t begin, int64_t end, const PolicyOptions& options) {
  SequenceSums s = {};
  for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads) {
    if (!is_active(c, t)) continue;
    const SequenceParts<float> parts = sequence_parts(load_token(c, t, 0.0f), options);
    s.log_ratio += parts.log_ratio;
    s.clamped_log_ratio += parts.clamped_log_ratio;
    s.log_weight += parts.log_weight;
    s.divergence += parts.divergence;
    s.rollout_difference += parts.rollout_difference;
  }
  const auto join = [](double x) { return block_reduce<kSequenceThreads, Sum>(x); };
  return {join(s.log_ratio), join(s.clamped_log_ratio), join(s.log_weight), join(s.divergence),
          join(s.rollout_difference)};
}

// Takes what token_loss() adds up of an active token.
struct ResultSums {
  SequenceResult& result;

  GRPO_HD_MEMBER void add(int statistic, float x) { result.sums[statistic] += x; }
  GRPO_HD_MEMBER void count(int statistic, bool mask) { result.sums[statistic] += mask ? 1.0 : 0.0; }
  GRPO_HD_MEMBER void acted_entropy(float x) { result.acted_entropy += x; }
  GRPO_HD_MEMBER void ratio(float x) {
    float &least = result.extremes[kRatioMin - kSumCount], &most = result.extremes[kRatioMax - kSumCount];
    if (x < least) least = x;
    if (x > most) most = x;
  }
  GRPO_HD_MEMBER void difference(float x) {
    float& most = result.extremes[kRolloutDifferenceMax - kSumCount];
    if (x > most) most = x;
  }
};

// Loss, gradients and statistics of an active token. Returns the derivative through the ratio when that is the
// sequence's.
__device__ double add_token(const PolicyCall& c, int64_t t, const PolicyOptions& options, const SequenceTerms& terms,
                            SequenceResult& result) {
  ResultSums sums = {result};
  const TokenLoss<float> token = token_loss(load_token(c, t, terms.advantage), options, terms, true, sums);
  result.loss += token.loss;
  result.sums[kActiveTokens] += 1.0;
  c.grad_log_probs[t] = token.grad_log_prob;
  if (c.grad_entropy) c.grad_entropy[t] = token.grad_entropy;
  return token.through_ratio;
}

// Two threads' results as one: all numbers at once, so that a block waits twice and not for each.
struct JoinResults {
  __device__ __forceinline__ SequenceResult operator()(const SequenceResult& a, const SequenceResult& b) const {
    SequenceResult both;
    both.loss = a.loss + b.loss;
    both.acted_entropy = a.acted_entropy + b.acted_entropy;
#pragma unroll
    for (int k = 0; k < kSumCount; ++k) both.sums[k] = a.sums[k] + b.sums[k];
#pragma unroll
    for (int k = kSumCount; k < kStatisticCount; ++k) {
      const float x = a.extremes[k - kSumCount], y = b.extremes[k - kSumCount];
      both.extremes[k - kSumCount] = is_minimum(k) ? (x < y ? x : y) : (x > y ? x : y);
    }
    return both;
  }
};

// The call's loss and statistics, by one block: each thread adds up one number over the sequences in order.
__device__ void join_sequences(const PolicyCall& c, const SequenceResult* results, double entropy_scale) {
  const int k = threadIdx.x;
  if (k < kSumCount) {
    double sum = 0.0;
#pragma unroll 8
    for (int64_t b = 0; b < c.sequences; ++b) sum += results[b].sums[k];
    c.statistics[k] = static_cast<float>(sum);
  } else if (k < kStatisticCount) {
    float x = empty_result().extremes[k - kSumCount];
#pragma unroll 8
    for (int64_t b = 0; b < c.sequences; ++b) {
      const float other = results[b].extremes[k - kSumCount];
      if (is_minimum(k) ? other < x : other > x) x = other;
    }
    c.statistics[k] = x;
  } else if (k == kStatisticCount) {
    double loss = 0.0, acted_entropy = 0.0;
#pragma unroll 8
    for (int64_t b = 0; b < c.sequences; ++b) {
      loss += results[b].loss;
      acted_entropy += results[b].acted_entropy;
    }
    if (c.entropy_coefficient != 0.0) loss += entropy_scale * acted_entropy;
    c.loss[0] = static_cast<float>(loss);
  }
}

// `active` holds the active tokens of the call; it is null when the call brings its token denominator. An extra block
// of a call without sequences only joins.
__global__ void __launch_bounds__(kSequenceThreads)
    policy_loss_kernel(PolicyCall c, PolicyOptions options, const long long* active, SequenceResult* results,
                       unsigned* counter) {
  const CallScales scales = call_scales(c, active, options);
  const int64_t b = blockIdx.x;
  if (b < c.sequences) {
    const int64_t begin = c.offsets[b], end = c.offsets[b + 1];
    const double count = count_of_sequence<kSequenceThreads>(c, begin, end);
    const double scale = loss_scale(options.loss_type, count, scales.token_denominator, scales.sequence_denominator,
                                    c.max_completion_length);
    SequenceSums sums = {};
    if (options.needs_sequence_statistics()) sums = sum_sequence(c, begin, end, options);
    const SequenceTerms terms = terms_of_sequence(c, b, count, scale, sums, options);
    SequenceResult result = empty_result();
    double through_ratio = 0.0;
    for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads) {
      if (is_active(c, t)) {
        through_ratio += add_token(c, t, options, terms, result);
      } else {
        c.grad_log_probs[t] = 0.0f;
        if (c.grad_entropy) c.grad_entropy[t] = 0.0f;
      }
    }
    result = block_reduce<kSequenceThreads, JoinResults>(result);
    if (options.sequence_level && count > 0.0) {
      through_ratio = block_reduce<kSequenceThreads, Sum>(through_ratio);
      const float share = static_cast<float>(through_ratio / count * scale);
      for (int64_t t = begin + threadIdx.x; t < end; t += kSequenceThreads) {
        if (is_active(c, t)) c.grad_log_probs[t] += share;
      }
    }
    result.loss *= scale;
    if (count > 0.0) {
      result.sums[kSequences] = 1.0;
      result.extremes[kLowClippedMin - kSumCount] = static_cast<float>(result.sums[kLowClippedSum] / count);
      result.extremes[kHighClippedMax - kSumCount] = static_cast<float>(result.sums[kHighClippedSum] / count);
    }
    if (threadIdx.x == 0) results[b] = result;
  }
  if (is_last_block(counter, gridDim.x)) join_sequences(c, results, scales.entropy_scale);
}

}  // namespace

grpo_status count_active(grpo_context& context, const PolicyCall& c, void* place, const long long** active) {
  *active = nullptr;
  if (c.token_denominator > 0.0) return GRPO_OK;
  auto* count = static_cast<long long*>(place);
  *active = count;
  return launch(context, count_active_kernel, {dim3(1), dim3(kCallThreads)}, c, count);
}

grpo_status policy_loss(grpo_context& context, const grpo_policy_loss_args& args) {
  if (auto status = check_policy_loss(context, args, kStatisticCount)) return status;
  const PolicyCall c = policy_call(args);
  auto* scratch = static_cast<char*>(context.scratch(256 + (c.sequences + 1) * sizeof(SequenceResult)));
  if (!scratch) return context.status();
  const long long* active;
  if (auto status = count_active(context, c, scratch, &active)) return status;
  return launch(context, policy_loss_kernel,
                {dim3(static_cast<unsigned>(std::max<int64_t>(c.sequences, 1))), dim3(kSequenceThreads)}, c,
                policy_options(args), active, reinterpret_cast<SequenceResult*>(scratch + 256), context.counters());
}

}  // namespace grpo_cuda
