// Sums over rows, one a column, in an order that follows from the shape alone. Many rows are cut into chunks, and their
// sums added up after that: a few columns of all rows would be too few blocks.
#pragma once

#include "operations.h"

namespace grpo_cuda {

constexpr int kSumWarps = 8;

struct RowChunks {
  int64_t count, rows;  // `rows` in each but the last
};
inline RowChunks row_chunks(int64_t rows, int64_t columns) {
  const int64_t most = std::min<int64_t>(64, (1 << 19) / columns);  // wide rows are many blocks without
  const int64_t count = std::max<int64_t>(1, std::min(most, rows / 64)), of_each = ceil_divide(rows, count);
  return {ceil_divide(rows, of_each), of_each};
}

// partials[chunk] = the sums of the values of its rows; value.fetch<N>(row, column) reads what value.floats() makes N
// adjacent ones of. A block adds up 32 N columns: each of its warps every eighth row in order, then the warps in order.
template <int N, class Value>
__global__ void __launch_bounds__(kWarp* kSumWarps)
    column_chunks_kernel(int64_t rows, int64_t columns, RowChunks chunks, Value value, float* partials) {
  __shared__ float sums[kSumWarps][kWarp];
  const int64_t column = (int64_t{blockIdx.x} * kWarp + threadIdx.x) * N;
  const int64_t first = blockIdx.y * chunks.rows, end = min(rows, first + chunks.rows);
  float sum[N] = {};
  if (column < columns) {
    constexpr int kAhead = 4;  // rows in flight
    int64_t row = first + threadIdx.y;
    for (; row + (kAhead - 1) * kSumWarps < end; row += kAhead * kSumWarps) {
      decltype(value.template fetch<N>(row, column)) read[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) read[i] = value.template fetch<N>(row + i * kSumWarps, column);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const Floats<N> x = value.floats(read[i]);
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += x.item[k];
      }
    }
    for (; row < end; row += kSumWarps) {
      const Floats<N> x = value.floats(value.template fetch<N>(row, column));
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += x.item[k];
    }
  }
#pragma unroll
  for (int k = 0; k < N; ++k) {
    sums[threadIdx.y][threadIdx.x] = sum[k];
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
      for (int warp = 1; warp < kSumWarps; ++warp) sum[k] += sums[warp][threadIdx.x];
      partials[blockIdx.y * columns + column + k] = sum[k];
    }
    __syncthreads();
  }
}

// out += partials[chunk], in order.
grpo_status add_chunks(grpo_context& context, const float* partials, int64_t chunks, int64_t columns, float* out);

// out += the sums of rows x columns values, which are read in n elements at a time: 1 or 8. Takes the row slot of the
// scratch space.
template <class Value>
grpo_status add_column_sums(grpo_context& context, int64_t rows, int64_t columns, int n, const Value& value,
                            float* out) {
  const RowChunks chunks = row_chunks(rows, columns);
  auto* partials = static_cast<float*>(context.scratch(chunks.count * columns * sizeof(float), kRowScratch));
  if (!partials) return context.status();
  const dim3 grid(static_cast<unsigned>(ceil_divide(columns, kWarp * n)), static_cast<unsigned>(chunks.count));
  if (auto status = launch(context, n == 8 ? column_chunks_kernel<8, Value> : column_chunks_kernel<1, Value>,
                           {grid, dim3(kWarp, kSumWarps)}, rows, columns, chunks, value, partials))
    return status;
  return add_chunks(context, partials, chunks.count, columns, out);
}

}  // namespace grpo_cuda
