// policy_loss_from_logits. Where a token's gradient depends on no other token's log-prob, one kernel takes a row from
// its logits to their gradient: statistics, the gradient of the token's loss, the gradient of the logits. Loss and
// statistics of the call then come from policy_loss over the N numbers; other options take the three operations one
// after another.
//
// Devices with clusters read a row once: a block of a cluster takes a part of it, holds it in shared memory, and learns
// what the other parts came to from their blocks. Elsewhere a block takes a row and reads it twice, the second time
// mostly from the cache. The cuts and the order in which parts are joined are those of row_softmax.h: the same bits.

#include "policy_call.h"
#include "row_gradient.h"
// clang-format off
#include "../common/policy_loss_steps.h"
// clang-format on

namespace grpo_cuda {

namespace {

constexpr int kTermThreads = 128;

// What the rows of a call share, and where their results go.
struct PolicyRows {
  int64_t columns, stride, out_stride;
  RowParts parts;
  bool aligned, out_aligned;
  const int32_t* targets;
  RowTransform transform;
  float *log_probs, *entropy, *log_sum_exp;
  PolicyCall call;
  PolicyOptions options;
  const long long* active;  // as policy_loss_kernel takes it
  SequenceTerms* terms;     // of each sequence
  int32_t* sequence_of_token;
};

__global__ void __launch_bounds__(kTermThreads) terms_kernel(PolicyRows k) {
  const int64_t b = blockIdx.x, begin = k.call.offsets[b], end = k.call.offsets[b + 1];
  const CallScales scales = call_scales(k.call, k.active, k.options);
  const double count = count_of_sequence<kTermThreads>(k.call, begin, end);
  if (threadIdx.x == 0) {
    const double scale = loss_scale(k.options.loss_type, count, scales.token_denominator, scales.sequence_denominator,
                                    k.call.max_completion_length);
    k.terms[b] = terms_of_sequence(k.call, b, count, scale, {}, k.options);
  }
  for (int64_t t = begin + threadIdx.x; t < end; t += kTermThreads) k.sequence_of_token[t] = static_cast<int32_t>(b);
}

// policy_loss adds them up.
struct NoSums {
  GRPO_HD_MEMBER void add(int, float) {}
  GRPO_HD_MEMBER void count(int, bool) {}
  GRPO_HD_MEMBER void acted_entropy(float) {}
  GRPO_HD_MEMBER void ratio(float) {}
  GRPO_HD_MEMBER void difference(float) {}
};

// The column of a row's target, and its logit.
struct RowTarget {
  int64_t column;
  float logit;
  bool here;  // where checks are off a target may lie outside the vocabulary
};
template <class T>
__device__ __forceinline__ RowTarget row_target(const PolicyRows& k, const T* row, int64_t at) {
  const int64_t column = k.targets[at];
  const bool here = column >= 0 && column < k.columns;
  return {column, here ? to_float(row[column]) : 0.0f, here};
}

struct RowPlan {
  RowGradient gradient;
  bool is_zero;
};

// By one thread: the gradient that a row's statistics lead to. With `write` also its log-prob, entropy and log-sum-exp.
__device__ RowPlan plan_row(const PolicyRows& k, int64_t at, const RowTarget& target, const RowStatistics& s,
                            bool write) {
  const float inverse = k.transform.inverse_temperature;
  const float log_prob = target.here ? row_log_prob(s, capped_logit(target.logit, k.transform.softcap), inverse) : NAN;
  const float entropy = row_entropy(s), log_sum_exp = row_log_sum_exp(s, inverse);
  if (write) {
    k.log_probs[at] = log_prob;
    k.entropy[at] = entropy;
    k.log_sum_exp[at] = log_sum_exp;
  }
  PolicyOptions options = k.options;
  call_scales(k.call, k.active, options);
  const SequenceTerms terms = k.terms[k.sequence_of_token[at]];
  NoSums sums;
  const TokenLoss<float> loss =
      token_loss(load_token(k.call, at, log_prob, entropy, terms.advantage), options, terms, true, sums);
  const float g = loss.grad_log_prob, h = k.call.grad_entropy ? loss.grad_entropy : 0.0f;
  return {needs_fresh_statistics(log_sum_exp, h) ? row_gradient(s, g, h, inverse)
                                                 : row_gradient(log_sum_exp, entropy, g, h, inverse),
          g == 0.0f && h == 0.0f};
}

// By one thread, after the others have written the rest of the row, whose softmax part adds up to `others`.
template <class U>
__device__ __forceinline__ void write_target(const PolicyRows& k, U* out, const RowTarget& target, double others) {
  out[target.column] =
      from_float<U>(static_cast<float>(-others) * softcap_derivative(target.logit, k.transform.softcap));
}

// A masked row, or a part of it that is `n` long and begins at `out`.
template <class T, class U>
__device__ __forceinline__ void drop_row(const PolicyRows& k, int64_t at, U* out, int64_t n, bool write) {
  zero_gradient<T>(out, n, k.out_aligned);
  if (threadIdx.x == 0 && write) k.log_probs[at] = k.entropy[at] = k.log_sum_exp[at] = 0.0f;
}

// ---- a block a row --------------------------------------------------------------------------------------------------

template <class T, class U>
__global__ void __launch_bounds__(kRowThreads, 4) policy_row_kernel(const T* logits, U* grad_logits, PolicyRows k) {
  const int64_t at = blockIdx.x;
  const T* row = logits + at * k.stride;
  U* out = grad_logits + at * k.out_stride;
  if (!is_active(k.call, at)) {
    drop_row<T>(k, at, out, k.columns, true);
    return;
  }
  const RowStatistics s = row_statistics<true>(row, k.columns, k.aligned, k.parts, k.transform);
  const RowTarget target = row_target(k, row, at);
  __shared__ RowPlan shared;
  if (threadIdx.x == 0) shared = plan_row(k, at, target, s, true);
  __syncthreads();
  const RowPlan plan = shared;
  if (plan.is_zero) {
    zero_gradient<T>(out, k.columns, k.out_aligned);
    return;
  }
  double others = 0.0;
  for (int part = 0; part < k.parts.count; ++part) {
    const int64_t begin = part * k.parts.length;
    const float sum =
        part_gradient(row + begin, out + begin, min(k.parts.length, k.columns - begin), target.column - begin,
                      k.aligned, k.out_aligned, plan.gradient, k.transform.softcap);
    others += block_reduce<kRowThreads, Sum>(static_cast<double>(sum));
  }
  if (threadIdx.x == 0 && target.here) write_target(k, out, target, others);
}

// ---- a cluster a row ------------------------------------------------------------------------------------------------

// Brings the n logits of a part into shared memory. Each thread copies what for_logits() gives it to read.
template <class T>
__device__ __forceinline__ void hold_part(const T* part, T* held, int64_t n, bool aligned) {
  constexpr int kPack = Pack<T>::kSize;
  const int64_t packs = n / kPack;
  if (aligned) {
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < packs; i += kRowThreads)
      copy_async(shared_address(held + i * kPack), part + i * kPack);
  } else {
    for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
#pragma unroll
      for (int m = 0; m < kPack; ++m) held[i * kPack + m] = part[i * kPack + m];
    }
  }
  for (int64_t i = packs * kPack + threadIdx.x; i < n; i += kRowThreads) held[i] = part[i];
  wait_for_copies();
}

// What a block of a cluster tells the others.
struct PartResults {
  RowStatistics statistics;
  double others[kMostParts];  // of all parts, in the block that has the target
  RowPlan plan;
};

template <class T, class U>
__global__ void __launch_bounds__(kRowThreads) policy_cluster_kernel(const T* logits, U* grad_logits, PolicyRows k) {
#ifdef GRPO_HAS_CLUSTERS
  const int rank = __clusterRelativeBlockRank();
  if (rank >= k.parts.count) return;  // clusters have 1, 2, 4 or 8 blocks; the barriers do not wait for one that ended
  const int64_t at = blockIdx.x / __clusterSizeInBlocks();
  const int64_t begin = rank * k.parts.length, n = min(k.parts.length, k.columns - begin);
  const T* row = logits + at * k.stride;
  U* out = grad_logits + at * k.out_stride;
  if (!is_active(k.call, at)) {
    drop_row<T>(k, at, out + begin, n, rank == 0);
    return;
  }
  T* held = dynamic_shared<T>();
  hold_part(row + begin, held, n, k.aligned);
  const RowStatistics mine = part_statistics<true>(held, 0, n, true, k.transform);
  // Read before the barrier: after it another block may write the gradient in the logits' place.
  const RowTarget target = row_target(k, row, at);
  __shared__ PartResults results;
  if (threadIdx.x == 0) results.statistics = mine;
  cluster_barrier();
  if (threadIdx.x == 0) {
    RowStatistics all = empty_row();
    for (int part = 0; part < k.parts.count; ++part)
      all = join_statistics(all, *in_block(&results.statistics, part), k.transform.inverse_temperature);
    results.plan = plan_row(k, at, target, all, rank == 0);
  }
  __syncthreads();
  const RowPlan plan = results.plan;
  const int owner = target.here ? static_cast<int>(target.column / k.parts.length) : 0;
  if (plan.is_zero) {
    zero_gradient<T>(out + begin, n, k.out_aligned);
  } else {
    const float sum = part_gradient(held, out + begin, n, target.column - begin, true, k.out_aligned, plan.gradient,
                                    k.transform.softcap);
    const double others = block_reduce<kRowThreads, Sum>(static_cast<double>(sum));
    if (threadIdx.x == 0) *in_block(&results.others[rank], owner) = others;
  }
  cluster_barrier();
  if (threadIdx.x != 0 || plan.is_zero || !target.here || rank != owner) return;
  double others = 0.0;
  for (int part = 0; part < k.parts.count; ++part) others += results.others[part];
  write_target(k, out, target, others);
#endif
}

// ---- launches -------------------------------------------------------------------------------------------------------

enum class RowPath { kCluster, kBlock, kThreeSteps };

RowPath choose_path(const grpo_context& context, const grpo_tensor& logits, const PolicyOptions& options) {
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  if (rows == 0 || columns == 0 || options.needs_sequence_statistics()) return RowPath::kThreeSteps;
  const RowParts parts = row_parts(columns);
  const size_t held = std::min(columns, parts.length) * element_bytes(logits);
  if (context.has_clusters() && held + kSharedVariables <= context.shared_memory()) return RowPath::kCluster;
  // Of few rows the three operations spread the parts of each over blocks.
  return rows >= 2 * context.processors() || parts.count == 1 ? RowPath::kBlock : RowPath::kThreeSteps;
}

unsigned cluster_blocks(const RowParts& parts) {
  unsigned blocks = 1;
  while (blocks < static_cast<unsigned>(parts.count)) blocks *= 2;
  return blocks;
}
static_assert(kMostParts <= kMostClusterBlocks);

grpo_status policy_rows(grpo_context& context, const grpo_policy_loss_from_logits_args& args,
                        const PolicyLossSteps& steps, const PolicyOptions& options, RowPath path) {
  const grpo_tensor &logits = args.logits, &grad_logits = args.grad_logits;
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  const PolicyCall call = policy_call(steps.loss);
  const size_t terms_bytes = ceil_divide(call.sequences * sizeof(SequenceTerms), 256) * 256;
  auto* scratch = static_cast<char*>(context.scratch(256 + terms_bytes + rows * sizeof(int32_t)));
  if (!scratch) return context.status();
  const long long* active;
  if (auto status = count_active(context, call, scratch, &active)) return status;
  const PolicyRows k = {columns,
                        logits.row_stride,
                        grad_logits.row_stride,
                        row_parts(columns),
                        is_aligned(logits, 16),
                        takes_packs(logits, grad_logits),
                        int_data(args.targets),
                        row_transform(args.temperature, args.softcap),
                        float_data(args.log_probs),
                        float_data(args.entropy),
                        float_data(args.log_sum_exp),
                        call,
                        options,
                        active,
                        reinterpret_cast<SequenceTerms*>(scratch + 256),
                        reinterpret_cast<int32_t*>(scratch + 256 + terms_bytes)};
  if (auto status = launch(context, terms_kernel, {dim3(static_cast<unsigned>(call.sequences)), dim3(kTermThreads)}, k))
    return status;
  return with_float_type(logits, [&](const auto* data) {
    return with_float_type(grad_logits, [&](auto* out) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      using U = std::remove_pointer_t<decltype(out)>;
      const unsigned cluster = cluster_blocks(k.parts);
      const size_t held = std::min(columns, k.parts.length) * sizeof(T);
      const Launch by_clusters = {dim3(static_cast<unsigned>(rows * cluster)), dim3(kRowThreads), held, cluster};
      if (path == RowPath::kCluster && cluster_fits(context, policy_cluster_kernel<T, U>, by_clusters))
        return launch(context, policy_cluster_kernel<T, U>, by_clusters, data, out, k);
      return launch(context, policy_row_kernel<T, U>, {dim3(static_cast<unsigned>(rows)), dim3(kRowThreads)}, data, out,
                    k);
    });
  });
}

}  // namespace

grpo_status policy_loss_from_logits(grpo_context& context, const grpo_policy_loss_from_logits_args& args) {
  const PolicyLossSteps steps(args);
  if (auto status = check_policy_loss_from_logits(context, args, steps, kStatisticCount)) return status;
  const PolicyOptions options = policy_options(steps.loss);
  const RowPath path = choose_path(context, args.logits, options);
  if (path != RowPath::kThreeSteps) {
    if (auto status = policy_rows(context, args, steps, options, path)) return status;
    return policy_loss(context, steps.loss);
  }
  if (auto status = token_log_probs(context, steps.forward)) return status;
  if (auto status = policy_loss(context, steps.loss)) return status;
  return token_log_probs_backward(context, steps.backward);
}

}  // namespace grpo_cuda
