// rms_norm, rms_norm_backward.

#include "column_sums.h"
#include "operations.h"

namespace grpo_cuda {

namespace {

constexpr int kNormWarps = 8;

// Groups of `width` adjacent elements.
struct NormGroups {
  int64_t count, width, per_row;  // per_row: groups in a row

  __device__ __forceinline__ void find(int64_t group, int64_t* row, int64_t* column) const {
    *row = per_row == 1 ? group : group / per_row;
    *column = (group - *row * per_row) * width;
  }
};

// A block of kThreads takes a group, a few elements of it a thread: a warp where groups are short, as heads are, and
// more where they are rows, so that the few rows of a decoding step are done by as many blocks. Which of the two
// depends on the width alone, and neither that nor N (elements an access, 1 where they are not aligned) on the other
// rows.
constexpr int kNormElements = 8;

// use(i) for the elements i to i + N of a group that a thread has.
template <int kThreads, int N, class Use>
__device__ __forceinline__ void for_own(int64_t width, const Use& use) {
  for (int64_t first = threadIdx.x * kNormElements; first < width; first += kThreads * kNormElements) {
#pragma unroll 1  // a compiler that unrolls it takes minutes
    for (int n = 0; n < kNormElements; n += N) {
      if (first + n < width) use(first + n);
    }
  }
}

template <int kThreads>
__device__ __forceinline__ float group_sum(float value) {
  if constexpr (kThreads == kWarp) {
    return warp_reduce(value, Sum{});
  } else {
    return block_reduce<kThreads, Sum>(value);
  }
}

template <int kThreads, int N>
__global__ void __launch_bounds__(256) rms_norm_kernel(NormGroups groups, FloatRows in, FloatRows weight, FloatRows out,
                                                       float* inverse_rms, float epsilon) {
  const int64_t group = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (group >= groups.count) return;
  int64_t row, column;
  groups.find(group, &row, &column);
  float squares = 0.0f;
  for_own<kThreads, N>(groups.width, [&](int64_t i) {
    const Floats<N> x = in.load<N>(row, column + i);
#pragma unroll
    for (int k = 0; k < N; ++k) squares = fmaf(x.item[k], x.item[k], squares);
  });
  squares = group_sum<kThreads>(squares);
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(groups.width) + epsilon);
  if (inverse_rms && threadIdx.x == 0) inverse_rms[group] = inverse;
  for_own<kThreads, N>(groups.width, [&](int64_t i) {
    const auto stored = in.fetch<N>(row, column + i), weights = weight.fetch<N>(0, i);
    const Floats<N> x = in.floats(stored), w = weight.floats(weights);
    Floats<N> y;
#pragma unroll
    for (int k = 0; k < N; ++k) y.item[k] = x.item[k] * inverse * w.item[k];
    out.store<N>(row, column + i, y);
  });
}

// With x^ = in * r, r the inverse rms, and y = grad_out * weight: grad_in = r (y - x^ mean(y x^)).
template <int kThreads, int N>
__global__ void __launch_bounds__(256)
    rms_norm_backward_kernel(NormGroups groups, FloatRows in, FloatRows weight, const float* inverse_rms,
                             FloatRows grad_out, FloatRows grad_in, bool accumulate) {
  const int64_t group = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (group >= groups.count) return;
  int64_t row, column;
  groups.find(group, &row, &column);
  const float r = inverse_rms[group];
  float sum = 0.0f;
  for_own<kThreads, N>(groups.width, [&](int64_t i) {
    const auto grads = grad_out.fetch<N>(row, column + i), inputs = in.fetch<N>(row, column + i),
               weights = weight.fetch<N>(0, i);
    const Floats<N> dy = grad_out.floats(grads), x = in.floats(inputs), w = weight.floats(weights);
#pragma unroll
    for (int k = 0; k < N; ++k) sum = fmaf(dy.item[k] * w.item[k], x.item[k], sum);
  });
  const float mean = group_sum<kThreads>(sum) * r / static_cast<float>(groups.width);
  for_own<kThreads, N>(groups.width, [&](int64_t i) {
    const auto grads = grad_out.fetch<N>(row, column + i), inputs = in.fetch<N>(row, column + i),
               weights = weight.fetch<N>(0, i);
    Floats<N> dy = grad_out.floats(grads);
    const Floats<N> x = in.floats(inputs), w = weight.floats(weights);
#pragma unroll
    for (int k = 0; k < N; ++k) dy.item[k] = r * (dy.item[k] * w.item[k] - x.item[k] * r * mean);
    if (accumulate) {
      const Floats<N> before = grad_in.load<N>(row, column + i);
#pragma unroll
      for (int k = 0; k < N; ++k) dy.item[k] += before.item[k];
    }
    grad_in.store<N>(row, column + i, dy);
  });
}

// grad_out x^ of a group, what the gradient of the weight is the sum of.
struct WeightGradients {
  NormGroups groups;
  FloatRows in, grad_out;
  const float* inverse_rms;

  template <int N>
  struct Stored {
    StoredFloats<N> in, grad_out;
    float inverse_rms;
  };
  template <int N>
  __device__ __forceinline__ Stored<N> fetch(int64_t group, int64_t i) const {
    int64_t row, column;
    groups.find(group, &row, &column);
    return {in.fetch<N>(row, column + i), grad_out.fetch<N>(row, column + i), inverse_rms[group]};
  }
  template <int N>
  __device__ __forceinline__ Floats<N> floats(const Stored<N>& stored) const {
    const Floats<N> x = in.floats(stored.in);
    Floats<N> y = grad_out.floats(stored.grad_out);
#pragma unroll
    for (int k = 0; k < N; ++k) y.item[k] *= x.item[k] * stored.inverse_rms;
    return y;
  }
};

// The blocks of a kernel over groups.
template <int kThreads>
Launch over_groups(const NormGroups& groups) {
  const dim3 block(kThreads, kThreads == kWarp ? kNormWarps : 1);
  return {dim3(static_cast<unsigned>(ceil_divide(groups.count, block.y))), block};
}

// Elements of a group an access.
template <class... Tensors>
int elements_of(const NormGroups& groups, const Tensors&... tensors) {
  return fits_accesses(kNormElements, groups.width, tensors...) ? kNormElements : 1;
}
grpo_tensor weight_row(const grpo_tensor& weight) {
  return {weight.data, weight.dtype, 2, {1, weight.shape[0]}, weight.shape[0]};
}

template <int kThreads>
grpo_status normalise(grpo_context& context, const NormGroups& groups, const grpo_rms_norm_args& args) {
  const bool aligned = elements_of(groups, args.in, weight_row(args.weight), args.out) > 1;
  return launch(context, aligned ? rms_norm_kernel<kThreads, kNormElements> : rms_norm_kernel<kThreads, 1>,
                over_groups<kThreads>(groups), groups, float_rows(args.in), float_rows(args.weight),
                float_rows(args.out), float_data(args.inverse_rms), static_cast<float>(args.epsilon));
}

template <int kThreads>
grpo_status normalise_backward(grpo_context& context, const NormGroups& groups,
                               const grpo_rms_norm_backward_args& args) {
  const bool aligned = elements_of(groups, args.in, weight_row(args.weight), args.grad_out, args.grad_in) > 1;
  return launch(
      context, aligned ? rms_norm_backward_kernel<kThreads, kNormElements> : rms_norm_backward_kernel<kThreads, 1>,
      over_groups<kThreads>(groups), groups, float_rows(args.in), float_rows(args.weight), float_data(args.inverse_rms),
      float_rows(args.grad_out), float_rows(args.grad_in), args.accumulate != 0);
}

NormGroups groups_of(const grpo_tensor& in, const grpo_tensor& weight) {
  const int64_t width = weight.shape[0], per_row = in.shape[1] / width;
  return {in.shape[0] * per_row, width, per_row};
}

}  // namespace

grpo_status rms_norm(grpo_context& context, const grpo_rms_norm_args& args) {
  if (auto status = check_norm(context, "rmsNorm", args.weight, args.in.shape[1])) return status;
  const NormGroups groups = groups_of(args.in, args.weight);
  if (groups.count == 0) return GRPO_OK;
  return groups.width <= kWarp * kNormElements ? normalise<kWarp>(context, groups, args)
                                               : normalise<128>(context, groups, args);
}

grpo_status rms_norm_backward(grpo_context& context, const grpo_rms_norm_backward_args& args) {
  if (auto status = check_norm(context, "rmsNormBackward", args.weight, args.in.shape[1])) return status;
  const NormGroups groups = groups_of(args.in, args.weight);
  if (groups.count == 0) return GRPO_OK;
  // The weight first: grad_in may be where grad_out is.
  if (args.grad_weight.data) {
    const WeightGradients value = {groups, float_rows(args.in), float_rows(args.grad_out),
                                   float_data(args.inverse_rms)};
    if (auto status = add_column_sums(context, groups.count, groups.width, elements_of(groups, args.in, args.grad_out),
                                      value, float_data(args.grad_weight)))
      return status;
  }
  return groups.width <= kWarp * kNormElements ? normalise_backward<kWarp>(context, groups, args)
                                               : normalise_backward<128>(context, groups, args);
}

}  // namespace grpo_cuda
