// matmul: cuBLAS, with conversions around it where dtypes are mixed.

#include "matmul.h"
#include "operations.h"
#include "rows.h"

namespace grpo_cuda {

namespace {

// out = bias (+ out) in every row.
struct BiasBody {
  FloatRows bias, out;
  bool accumulate;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    Floats<N> value = bias.load<N>(0, column);
    if (accumulate) {
      const Floats<N> old = out.load<N>(row, column);
#pragma unroll
      for (int i = 0; i < N; ++i) value.item[i] += old.item[i];
    }
    out.store<N>(row, column, value);
  }
};

int64_t round_up(int64_t bytes) { return ceil_divide(bytes, 256) * 256; }

grpo_tensor tensor_of(const Matrix& m, int64_t rows, int64_t columns) {
  return {m.data, m.dtype, 2, {rows, columns}, m.stride};
}

}  // namespace

grpo_status product(grpo_context& context, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    const Matrix& a, const Matrix& b, const Matrix& out, bool accumulate) {
  if (m == 0 || n == 0) return GRPO_OK;
  if (k == 0) {
    return accumulate ? GRPO_OK : fill(context, {tensor_of(out, m, n), 0.0});
  }
  const Blas& blas = context.blas();
  if (!blas.found()) return context.fail(GRPO_UNSUPPORTED, "matmul: %s", blas.description().c_str());
  for (const int64_t length : {m, n, k, a.stride, b.stride, out.stride}) {
    if (length > INT32_MAX) {
      return context.fail(GRPO_UNSUPPORTED, "matmul: expected lengths and row strides below 2^31 but received %lld",
                          static_cast<long long>(length));
    }
  }

  // What cuBLAS takes as it is: two operands of one dtype, and a result of that dtype or in float32.
  const bool same = a.dtype == b.dtype;
  const bool convert_out = out.dtype != GRPO_F32 && (!same || out.dtype != a.dtype);
  const int64_t a_rows = transpose_a ? k : m, a_columns = transpose_a ? m : k;
  const int64_t b_rows = transpose_b ? n : k, b_columns = transpose_b ? k : n;
  const bool convert_a = !same && a.dtype != GRPO_F32, convert_b = !same && b.dtype != GRPO_F32;
  const int64_t a_bytes = convert_a ? round_up(a_rows * a_columns * 4) : 0;
  const int64_t b_bytes = convert_b ? round_up(b_rows * b_columns * 4) : 0;
  const int64_t out_bytes = convert_out ? round_up(m * n * 4) : 0;
  Matrix left = a, right = b, result = out;
  if (a_bytes + b_bytes + out_bytes > 0) {
    auto* scratch = static_cast<char*>(context.scratch(a_bytes + b_bytes + out_bytes, kProductScratch));
    if (!scratch) return context.status();
    if (convert_a) left = {scratch, GRPO_F32, a_columns};
    if (convert_b) right = {scratch + a_bytes, GRPO_F32, b_columns};
    if (convert_out) result = {scratch + a_bytes + b_bytes, GRPO_F32, n};
    const auto convert = [&](const Matrix& from, const Matrix& to, int64_t rows, int64_t columns) {
      return convert_floats(context, tensor_of(from, rows, columns), tensor_of(to, rows, columns));
    };
    if (convert_a) {
      if (auto status = convert(a, left, a_rows, a_columns)) return status;
    }
    if (convert_b) {
      if (auto status = convert(b, right, b_rows, b_columns)) return status;
    }
    if (convert_out && accumulate) {
      if (auto status = convert(out, result, m, n)) return status;
    }
  }
  if (const int status = blas.product(transpose_a, transpose_b, m, n, k, left, right, result, accumulate)) {
    // cublasStatus_t: ALLOC_FAILED, and INVALID_VALUE, ARCH_MISMATCH and NOT_SUPPORTED, which queue nothing.
    const grpo_status kind = status == 3                                  ? GRPO_OUT_OF_MEMORY
                             : status == 7 || status == 8 || status == 15 ? GRPO_UNSUPPORTED
                                                                          : GRPO_DEVICE_LOST;
    return context.fail(kind, "matmul: cublasGemmEx failed with status %d", status);
  }
  if (!convert_out) return GRPO_OK;
  return convert_floats(context, tensor_of(result, m, n), tensor_of(out, m, n));
}

grpo_status matmul(grpo_context& context, const grpo_matmul_args& args) {
  if (auto status = check_matmul(context, args)) return status;
  const auto matrix = [](const grpo_tensor& t) { return Matrix{t.data, t.dtype, t.row_stride}; };
  const int64_t m = args.out.shape[0], n = args.out.shape[1], k = args.a.shape[args.transpose_a != 0 ? 0 : 1];
  bool accumulate = args.accumulate != 0;
  if (args.bias.data) {
    // The bias first: the product then adds to it in the pass that writes the result.
    const BiasBody body = {float_rows(args.bias), float_rows(args.out), accumulate};
    if (auto status = for_elements(context, m, n, body, args.bias, args.out)) return status;
    accumulate = true;
  }
  return product(context, args.transpose_a != 0, args.transpose_b != 0, m, n, k, matrix(args.a), matrix(args.b),
                 matrix(args.out), accumulate);
}

}  // namespace grpo_cuda
