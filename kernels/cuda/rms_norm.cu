// rms_norm, rms_norm_backward.

#include "operations.h"

namespace grpo_cuda {

namespace {

constexpr int kNormWarps = 8;

// Groups of `width` adjacent elements.
struct NormGroups {
  int64_t count, width, per_row;  // per_row: groups in a row
};

// A block of kThreads takes a group, a few elements of it a thread: a warp where groups are short, as heads are, and
// more where they are rows, so that the few rows of a decoding step are done by as many blocks. Which of the two
// depends on the width alone, and neither that nor N (elements an access, 1 where they are not aligned) on the other
// rows.
constexpr int kNormElements = 8;

template <int kThreads, int N>
__global__ void __launch_bounds__(256) rms_norm_kernel(NormGroups groups, FloatRows in, FloatRows weight, FloatRows out,
                                                       float* inverse_rms, float epsilon) {
  const int64_t group = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  if (group >= groups.count) return;
  const int64_t row = group / groups.per_row, column = group % groups.per_row * groups.width;
  const auto for_own = [&](const auto& use) {
    for (int64_t first = threadIdx.x * kNormElements; first < groups.width; first += kThreads * kNormElements) {
#pragma unroll
      for (int n = 0; n < kNormElements; n += N) {
        if (first + n < groups.width) use(first + n);
      }
    }
  };
  float squares = 0.0f;
  for_own([&](int64_t i) {
    const Floats<N> x = in.load<N>(row, column + i);
#pragma unroll
    for (int k = 0; k < N; ++k) squares += x.item[k] * x.item[k];
  });
  if constexpr (kThreads == kWarp) {
    squares = warp_reduce(squares, Sum{});
  } else {
    squares = block_reduce<kThreads, Sum>(squares);
  }
  const float inverse = 1.0f / sqrtf(squares / static_cast<float>(groups.width) + epsilon);
  if (inverse_rms && threadIdx.x == 0) inverse_rms[group] = inverse;
  for_own([&](int64_t i) {
    const Floats<N> x = in.load<N>(row, column + i), w = weight.load<N>(0, i);
    Floats<N> y;
#pragma unroll
    for (int k = 0; k < N; ++k) y.item[k] = x.item[k] * inverse * w.item[k];
    out.store<N>(row, column + i, y);
  });
}

template <int kThreads>
grpo_status normalise(grpo_context& context, const NormGroups& groups, const grpo_rms_norm_args& args) {
  const grpo_tensor weight = {args.weight.data, args.weight.dtype, 2, {1, groups.width}, groups.width};
  const bool aligned = groups.width % kNormElements == 0 && is_aligned_for(args.in, kNormElements) &&
                       is_aligned_for(weight, kNormElements) && is_aligned_for(args.out, kNormElements);
  const dim3 block(kThreads, kThreads == kWarp ? kNormWarps : 1);
  const dim3 grid(static_cast<unsigned>(ceil_divide(groups.count, block.y)));
  return launch(context, aligned ? rms_norm_kernel<kThreads, kNormElements> : rms_norm_kernel<kThreads, 1>,
                {grid, block}, groups, float_rows(args.in), float_rows(args.weight), float_rows(args.out),
                float_data(args.inverse_rms), static_cast<float>(args.epsilon));
}

// With x^ = in * r, r the inverse rms, and y = grad_out * weight: grad_in = r (y - x^ mean(y x^)). A warp takes a
// group.
__global__ void __launch_bounds__(kWarp* kNormWarps)
    rms_norm_backward_kernel(NormGroups groups, FloatRows in, FloatRows weight, const float* inverse_rms,
                             FloatRows grad_out, FloatRows grad_in, bool accumulate) {
  const int64_t group = int64_t{blockIdx.x} * kNormWarps + threadIdx.y;
  if (group >= groups.count) return;
  const int64_t row = group / groups.per_row, column = group % groups.per_row * groups.width;
  const float r = inverse_rms[group];
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < groups.width; i += kWarp)
    sum += grad_out.load(row, column + i) * weight.load(0, i) * in.load(row, column + i);
  const float mean = warp_reduce(sum, Sum{}) * r / static_cast<float>(groups.width);
  for (int64_t i = threadIdx.x; i < groups.width; i += kWarp) {
    const float y = grad_out.load(row, column + i) * weight.load(0, i);
    const float grad = r * (y - in.load(row, column + i) * r * mean);
    grad_in.store(row, column + i, accumulate ? grad + grad_in.load(row, column + i) : grad);
  }
}

// partials[chunk] = the sum of grad_out x^ over the groups of a chunk. A block adds up 32 columns: each of its warps
// every eighth group in order, then the warps in order.
__global__ void __launch_bounds__(kWarp* kNormWarps)
    rms_norm_weight_kernel(NormGroups groups, FloatRows in, const float* inverse_rms, FloatRows grad_out,
                           int64_t chunk_groups, float* partials) {
  __shared__ float sums[kNormWarps][kWarp];
  const int64_t i = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const int64_t first = blockIdx.y * chunk_groups, end = min(groups.count, first + chunk_groups);
  float sum = 0.0f;
  if (i < groups.width) {
    for (int64_t group = first + threadIdx.y; group < end; group += kNormWarps) {
      const int64_t row = group / groups.per_row, column = group % groups.per_row * groups.width + i;
      sum += grad_out.load(row, column) * (in.load(row, column) * inverse_rms[group]);
    }
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= groups.width) return;
  for (int warp = 1; warp < kNormWarps; ++warp) sum += sums[warp][threadIdx.x];
  partials[blockIdx.y * groups.width + i] = sum;
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
  const dim3 block(kWarp, kNormWarps);
  // The weight first: grad_in may be where grad_out is.
  if (args.grad_weight.data) {
    // As many chunks as keep the processors busy, by the shape alone, so that the bits are those of any device.
    const int64_t chunks = std::max<int64_t>(1, std::min<int64_t>(64, groups.count / 64));
    const int64_t chunk_groups = ceil_divide(groups.count, chunks);
    auto* partials = static_cast<float*>(context.scratch(chunks * groups.width * sizeof(float)));
    if (!partials) return context.status();
    const auto across = static_cast<unsigned>(ceil_divide(groups.width, kWarp));
    if (auto status = launch(context, rms_norm_weight_kernel, {dim3(across, static_cast<unsigned>(chunks)), block},
                             groups, float_rows(args.in), float_data(args.inverse_rms), float_rows(args.grad_out),
                             chunk_groups, partials))
      return status;
    const grpo_column_sum_args sum = {{partials, GRPO_F32, 2, {chunks, groups.width}, groups.width}, args.grad_weight};
    if (auto status = column_sum(context, sum)) return status;
  }
  return launch(context, rms_norm_backward_kernel,
                {dim3(static_cast<unsigned>(ceil_divide(groups.count, kNormWarps))), block}, groups,
                float_rows(args.in), float_rows(args.weight), float_data(args.inverse_rms), float_rows(args.grad_out),
                float_rows(args.grad_in), args.accumulate != 0);
}

}  // namespace grpo_cuda
