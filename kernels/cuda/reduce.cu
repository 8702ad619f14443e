// column_sum, global_norm: sums in a fixed order.

#include "column_sums.h"
#include "operations.h"

namespace grpo_cuda {

namespace {

// ---- column_sum ----

struct RowValues {
  FloatRows in;

  template <int N>
  __device__ __forceinline__ StoredFloats<N> fetch(int64_t row, int64_t column) const {
    return in.fetch<N>(row, column);
  }
  template <int N>
  __device__ __forceinline__ Floats<N> floats(const StoredFloats<N>& stored) const {
    return in.floats(stored);
  }
};

// A thread a column, the chunks in order.
__global__ void __launch_bounds__(kWarp)
    add_chunks_kernel(const float* partials, int64_t chunks, int64_t columns, float* out) {
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  if (column >= columns) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partials[chunk * columns + column];
  out[column] += sum;
}

// ---- global_norm ----

constexpr int kNormThreads = 256;

// Sums of squares in float64: of each thread, each block, then, by the last block, of all blocks in order.
__global__ void __launch_bounds__(kNormThreads)
    global_norm_kernel(const float* in, int64_t count, bool aligned, double* partials, unsigned* counter, float* norm) {
  // Products of floats are exact in float64; adding four of them in float32 first would not be.
  double sum = 0.0;
  const auto add = [&](double x) { sum = fma(x, x, sum); };
  const int64_t step = int64_t{gridDim.x} * kNormThreads, first = int64_t{blockIdx.x} * kNormThreads + threadIdx.x;
  constexpr int kPack = Pack<float>::kSize;
  const int64_t packs = count / kPack;
  const auto add_packs = [&](const auto& read) {
#pragma unroll 4
    for (int64_t i = first; i < packs; i += step) {
      const Pack<float> pack = read(i);
#pragma unroll
      for (int k = 0; k < kPack; ++k) add(pack.item[k]);
    }
  };
  if (aligned) {
    add_packs([&](int64_t i) { return reinterpret_cast<const Pack<float>*>(in)[i]; });
  } else {
    add_packs([&](int64_t i) -> Pack<float> {
      const float* from = in + i * kPack;
      return {from[0], from[1], from[2], from[3]};
    });
  }
  for (int64_t i = packs * kPack + first; i < count; i += step) add(in[i]);
  sum = block_reduce<kNormThreads, Sum>(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
  if (!is_last_block(counter, gridDim.x)) return;
  double total = 0.0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += kNormThreads) total += partials[i];
  total = block_reduce<kNormThreads, Sum>(total);
  if (threadIdx.x == 0) norm[0] = static_cast<float>(sqrt(total));
}

}  // namespace

grpo_status add_chunks(grpo_context& context, const float* partials, int64_t chunks, int64_t columns, float* out) {
  return launch(context, add_chunks_kernel, {dim3(static_cast<unsigned>(ceil_divide(columns, kWarp))), dim3(kWarp)},
                partials, chunks, columns, out);
}

grpo_status column_sum(grpo_context& context, const grpo_column_sum_args& args) {
  const int64_t rows = args.in.shape[0], columns = args.in.shape[1];
  if (rows == 0 || columns == 0) return GRPO_OK;
  const int n = fits_accesses(8, columns, args.in) ? 8 : 1;
  return add_column_sums(context, rows, columns, n, RowValues{float_rows(args.in)}, float_data(args.out));
}

grpo_status global_norm(grpo_context& context, const grpo_global_norm_args& args) {
  const int64_t count = args.in.shape[0];
  const int64_t blocks =
      std::max<int64_t>(1, std::min<int64_t>(4 * context.processors(), ceil_divide(count, 4 * kNormThreads)));
  auto* partials = static_cast<double*>(context.scratch(blocks * sizeof(double)));
  if (!partials) return context.status();
  return launch(context, global_norm_kernel, {dim3(static_cast<unsigned>(blocks)), dim3(kNormThreads)},
                float_data(args.in), count, is_aligned(args.in, 16), partials, context.counters(),
                float_data(args.norm));
}

}  // namespace grpo_cuda
