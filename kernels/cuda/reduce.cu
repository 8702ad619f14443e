// column_sum, global_norm: sums in a fixed order.

#include "operations.h"

namespace grpo_cuda {

namespace {

// ---- column_sum ----

constexpr int kSumRows = 8;  // rows that a block adds up at the same time

// A block adds up 32 columns: each of its warps every eighth row in order, then the warps in order.
__global__ void __launch_bounds__(kWarp* kSumRows)
    column_sum_kernel(FloatRows in, int64_t rows, int64_t columns, float* out) {
  __shared__ float sums[kSumRows][kWarp];
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  float sum = 0.0f;
  if (column < columns) {
    for (int64_t row = threadIdx.y; row < rows; row += kSumRows) sum += in.load(row, column);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= columns) return;
  for (int i = 1; i < kSumRows; ++i) sum += sums[i][threadIdx.x];
  out[column] += sum;
}

// ---- global_norm ----

constexpr int kNormThreads = 256;

// Sums of squares in float64: of each thread, each block, then, by the last block, of all blocks in order.
__global__ void __launch_bounds__(kNormThreads)
    global_norm_kernel(const float* in, int64_t count, double* partials, unsigned* counter, float* norm) {
  // Products of floats are exact in float64; adding four of them in float32 first would not be.
  double sum = 0.0;
  const int64_t step = int64_t{gridDim.x} * kNormThreads;
  for (int64_t i = int64_t{blockIdx.x} * kNormThreads + threadIdx.x; i < count; i += step) {
    const double x = in[i];
    sum += x * x;
  }
  sum = block_reduce<kNormThreads, Sum>(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (!is_last_block(counter, gridDim.x)) return;
  double total = 0.0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kNormThreads) total += partials[i];
  total = block_reduce<kNormThreads, Sum>(total);
  if (threadIdx.x == 0) norm[0] = static_cast<float>(sqrt(total));
}

}  // namespace

grpo_status column_sum(grpo_context& context, const grpo_column_sum_args& args) {
  const int64_t rows = args.in.shape[0], columns = args.in.shape[1];
  if (rows == 0 || columns == 0) return GRPO_OK;
  return launch(context, column_sum_kernel,
                {dim3(static_cast<unsigned>(ceil_divide(columns, kWarp))), dim3(kWarp, kSumRows)}, float_rows(args.in),
                rows, columns, float_data(args.out));
}

grpo_status global_norm(grpo_context& context, const grpo_global_norm_args& args) {
  const int64_t count = args.in.shape[0];
  const int64_t blocks =
      std::max<int64_t>(1, std::min<int64_t>(4 * context.processors(), ceil_divide(count, 4 * kNormThreads)));
  auto* partials = static_cast<double*>(context.scratch(blocks * sizeof(double)));
  if (!partials) return context.status();
  return launch(context, global_norm_kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kNormThreads)},
                float_data(args.in), count, partials, context.counters(), float_data(args.norm));
}

}  // namespace grpo_cuda
