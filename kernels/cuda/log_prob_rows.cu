#include "log_prob_rows.h"
#include "row_gradient.h"

namespace grpo_cuda {

namespace {

struct LogProbKernel {
  int64_t columns, stride;
  RowParts parts;
  bool aligned;
  const int32_t *targets, *mask;
  int64_t vocab_start;
  RowTransform transform;
  LogProbOutputs out;

  __device__ __forceinline__ bool is_masked(int64_t row) const { return mask && mask[row] == 0; }
};

// A target outside the slice, or outside the vocabulary where checks are off, has no logit here.
template <class T>
__device__ void write_row(const LogProbKernel& k, const T* row, int64_t at, const RowStatistics& s) {
  const float inverse = k.transform.inverse_temperature;
  if (k.is_masked(at)) {
    if (k.out.log_probs) k.out.log_probs[at] = 0.0f;
    if (k.out.entropy) k.out.entropy[at] = 0.0f;
    if (k.out.log_sum_exp) k.out.log_sum_exp[at] = 0.0f;
    return;
  }
  const int64_t target = k.targets[at] - k.vocab_start;
  const bool here = target >= 0 && target < k.columns;
  const float logit = here ? capped_logit(to_float(row[target]), k.transform.softcap) : 0.0f;
  if (k.out.partial) {
    k.out.partial[at] = {s.max * inverse, static_cast<float>(s.sum), static_cast<float>(s.weighted),
                         here ? logit * inverse : 0.0f};
  }
  if (k.out.log_probs) k.out.log_probs[at] = here ? row_log_prob(s, logit, inverse) : NAN;
  if (k.out.entropy) k.out.entropy[at] = row_entropy(s);
  if (k.out.log_sum_exp) k.out.log_sum_exp[at] = row_log_sum_exp(s, inverse);
}

template <bool kEntropy, class T>
__global__ void __launch_bounds__(kRowThreads) whole_row_kernel(const T* logits, LogProbKernel k) {
  const int64_t at = blockIdx.x;
  const T* row = logits + at * k.stride;
  const RowStatistics s =
      k.is_masked(at) ? empty_row() : row_statistics<kEntropy>(row, k.columns, k.aligned, k.parts, k.transform);
  if (threadIdx.x == 0) write_row(k, row, at, s);
}

template <bool kEntropy, class T>
__global__ void __launch_bounds__(kRowThreads) row_part_kernel(const T* logits, LogProbKernel k, RowStatistics* found) {
  const int64_t at = blockIdx.x / k.parts.count;
  if (k.is_masked(at)) return;
  const int part = blockIdx.x % k.parts.count;
  const T* row = logits + at * k.stride;
  const int64_t begin = part * k.parts.length, end = min(k.columns, begin + k.parts.length);
  const RowStatistics s = part_statistics<kEntropy>(row, begin, end, k.aligned, k.transform);
  if (threadIdx.x == 0) found[blockIdx.x] = s;
}

template <class T>
__global__ void __launch_bounds__(kWarp)
    join_parts_kernel(const T* logits, LogProbKernel k, const RowStatistics* found, int64_t rows) {
  const int64_t at = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  if (at >= rows) return;
  RowStatistics all = empty_row();
  for (int i = 0; i < k.parts.count && !k.is_masked(at); ++i)
    all = join_statistics(all, found[at * k.parts.count + i], k.transform.inverse_temperature);
  write_row(k, logits + at * k.stride, at, all);
}

struct GradientKernel {
  int64_t columns, stride, out_stride;
  RowParts parts;
  bool aligned, out_aligned;
  GradientInputs inputs;
};

template <class T, class U>
__global__ void __launch_bounds__(kRowThreads, 3) gradient_kernel(const T* logits, U* grad_logits, GradientKernel k) {
  const GradientInputs& in = k.inputs;
  const int64_t at = blockIdx.x;
  const T* row = logits + at * k.stride;
  U* out = grad_logits + at * k.out_stride;
  const float g = in.grad_log_probs[at], h = in.grad_entropy ? in.grad_entropy[at] : 0.0f;
  if (g == 0.0f && h == 0.0f) {
    zero_gradient<T>(out, k.columns, k.out_aligned);
    return;
  }
  // When the statistics are needed the row is read a second time, mostly from the cache.
  __shared__ RowGradient shared;
  const bool fresh = in.whole_vocabulary && needs_fresh_statistics(in.log_sum_exp[at], h);
  RowStatistics s = empty_row();
  if (fresh) s = row_statistics<true>(row, k.columns, k.aligned, k.parts, in.transform);
  if (threadIdx.x == 0) {
    const float inverse = in.transform.inverse_temperature;
    shared = fresh ? row_gradient(s, g, h, inverse)
                   : row_gradient(in.log_sum_exp[at], in.entropy ? in.entropy[at] : 0.0f, g, h, inverse);
  }
  const int64_t target = in.targets[at] - in.vocab_start;
  const bool here = target >= 0 && target < k.columns;
  // Read before anything is written: the gradient may take the logits' place.
  const float target_logit = here ? to_float(row[target]) : 0.0f;
  __syncthreads();
  const RowGradient gradient = shared;

  const float softcap = in.transform.softcap;
  double others = 0.0;  // the softmax part of all but the target
  for (int part = 0; part < k.parts.count; ++part) {
    const int64_t begin = part * k.parts.length;
    const float sum = part_gradient(row + begin, out + begin, min(k.parts.length, k.columns - begin), target - begin,
                                    k.aligned, k.out_aligned, gradient, softcap);
    others += block_reduce<kRowThreads, Sum>(static_cast<double>(sum));
  }
  if (threadIdx.x != 0 || !here) return;  // block_reduce was a barrier: the target's element is written again
  // A whole row's gradient sums to zero, which gives g * (1 - p) without the cancellation that ruins it where p is near
  // 1. The others of a slice are elsewhere, so g / T is added to the softmax part.
  const float derivative = softcap_derivative(target_logit, softcap);
  const float own = in.whole_vocabulary ? static_cast<float>(-others)
                                        : g * in.transform.inverse_temperature +
                                              gradient_element(capped_logit(target_logit, softcap), gradient);
  out[target] = from_float<U>(own * derivative);
}

}  // namespace

grpo_status log_prob_rows(grpo_context& context, const grpo_tensor& logits, const int32_t* targets, const int32_t* mask,
                          int64_t vocab_start, const RowTransform& transform, const LogProbOutputs& out) {
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  if (rows == 0) return GRPO_OK;
  const RowParts parts = row_parts(columns);
  const LogProbKernel k = {columns,     logits.row_stride, parts, is_aligned(logits, 16), targets, mask,
                           vocab_start, transform,         out};
  const bool entropy = out.entropy || out.partial;
  const auto blocks = static_cast<unsigned>(rows);
  return with_float_type(logits, [&](const auto* data) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    if (rows >= 2 * context.processors() || parts.count == 1) {
      return launch(context, entropy ? whole_row_kernel<true, T> : whole_row_kernel<false, T>,
                    {dim3(blocks), dim3(kRowThreads)}, data, k);
    }
    auto* found = static_cast<RowStatistics*>(context.scratch(rows * parts.count * sizeof(RowStatistics), kRowScratch));
    if (!found) return context.status();
    if (auto status = launch(context, entropy ? row_part_kernel<true, T> : row_part_kernel<false, T>,
                             {dim3(blocks * parts.count), dim3(kRowThreads)}, data, k, found))
      return status;
    return launch(context, join_parts_kernel<T>, {dim3(static_cast<unsigned>(ceil_divide(rows, kWarp))), dim3(kWarp)},
                  data, k, found, rows);
  });
}

grpo_status gradient_rows(grpo_context& context, const grpo_tensor& logits, const grpo_tensor& grad_logits,
                          const GradientInputs& inputs) {
  const int64_t rows = logits.shape[0], columns = logits.shape[1];
  if (rows == 0 || columns == 0) return GRPO_OK;
  const GradientKernel k = {columns,
                            logits.row_stride,
                            grad_logits.row_stride,
                            row_parts(columns),
                            is_aligned(logits, 16),
                            takes_packs(logits, grad_logits),
                            inputs};
  return with_float_type(logits, [&](const auto* data) {
    return with_float_type(grad_logits, [&](auto* out) {
      using T = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      using U = std::remove_pointer_t<decltype(out)>;
      return launch(context, gradient_kernel<T, U>, {dim3(static_cast<unsigned>(rows)), dim3(kRowThreads)}, data, out,
                    k);
    });
  });
}

}  // namespace grpo_cuda
