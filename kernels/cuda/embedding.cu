// embedding, embedding_backward.

#include "operations.h"

namespace grpo_cuda {

namespace {

// An id out of range gives NaN; it has been refused before, unless checks are off.
struct EmbeddingBody {
  FloatRows table, out;
  const int32_t* ids;
  int64_t vocab;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const int64_t id = ids[row];
    Floats<N> value;
    if (id >= 0 && id < vocab) {
      value = table.load<N>(id, column);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) value.item[i] = __uint_as_float(0x7fc00000u);
    }
    out.store<N>(row, column, value);
  }
};

// A warp adds up 32 columns of the rows whose ids are alike modulo kClasses: the order of the sums is that of the rows,
// and no two threads write to one place.
constexpr int kClasses = 64;
__global__ void __launch_bounds__(kWarp)
    embedding_backward_kernel(FloatRows grad_out, const int32_t* ids, int64_t rows, int64_t columns, int64_t vocab,
                              float* table, int64_t stride) {
  const int64_t column = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  if (column >= columns) return;
  constexpr int kAhead = 8;  // loads in flight
  for (int64_t first = 0; first < rows; first += kAhead) {
    float values[kAhead];
    int64_t to[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t row = first + i;
      to[i] = row < rows ? ids[row] : -1;
      if (to[i] < 0 || to[i] >= vocab || to[i] % kClasses != blockIdx.y) to[i] = -1;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) values[i] = to[i] >= 0 ? grad_out.load(first + i, column) : 0.0f;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (to[i] >= 0) table[to[i] * stride + column] += values[i];
    }
  }
}

}  // namespace

grpo_status embedding(grpo_context& context, const grpo_embedding_args& args) {
  if (auto status = check_indices(context, "embedding: ids", args.ids, args.table.shape[0])) return status;
  const EmbeddingBody body = {float_rows(args.table), float_rows(args.out), int_data(args.ids), args.table.shape[0]};
  return for_elements(context, args.out.shape[0], args.out.shape[1], body, args.table, args.out);
}

grpo_status embedding_backward(grpo_context& context, const grpo_embedding_backward_args& args) {
  if (auto status = check_indices(context, "embeddingBackward: ids", args.ids, args.grad_table.shape[0])) return status;
  const int64_t rows = args.grad_out.shape[0], columns = args.grad_out.shape[1];
  if (rows == 0 || columns == 0) return GRPO_OK;
  return launch(context, embedding_backward_kernel,
                {dim3(static_cast<unsigned>(ceil_divide(columns, kWarp)), kClasses), dim3(kWarp)},
                float_rows(args.grad_out), int_data(args.ids), rows, columns, args.grad_table.shape[0],
                float_data(args.grad_table), args.grad_table.row_stride);
}

}  // namespace grpo_cuda
