// matmul, and the choice between OpenBLAS and the built-in product. Compiled once an instruction set (isa/kernels.inc).

// Pieces of a product for each thread: more than one, since a thread may begin late or share its core.
constexpr int64_t kBlasPieces = 2;

// OpenBLAS computes float32 products, cut into a few pieces a thread along the longer side of the result. It rounds a
// row differently in pieces of different shape.
static void blas_product(grpo_context& context, const Product& p, const Destination& out) {
  const float *a = static_cast<const float*>(p.a.data), *b = static_cast<const float*>(p.b.data);
  float* c = static_cast<float*>(out.data);
  const bool by_rows = p.m >= p.n;
  const int64_t length = by_rows ? p.m : p.n;
  const int64_t piece = round_up(ceil_divide(length, kBlasPieces * context.pool.threads()), kTileColumns);
  parallel_for(context, ceil_divide(length, piece), 1, [&](int64_t first, int64_t last, int) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i * piece, size = std::min(piece, length - begin);
      const int64_t row = by_rows ? begin : 0, rows = by_rows ? size : p.m;
      const int64_t column = by_rows ? 0 : begin, columns = by_rows ? p.n : size;
      float* to = c + row * out.stride + column;
      context.blas->sgemm(
          p.transpose_a, p.transpose_b, rows, columns, p.k, a + (p.transpose_a ? row : row * p.a.stride), p.a.stride,
          b + (p.transpose_b ? column * p.b.stride : column), p.b.stride, out.accumulate ? 1.0f : 0.0f, to, out.stride);
      if (!out.bias.data) continue;
      with_float_type(out.bias, [&](auto* bias) {
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t j = 0; j < columns; ++j) to[r * out.stride + j] += to_float(bias[column + j]);
        }
      });
    }
  });
}

// OpenBLAS packs both operands on every call, which pays only when a weight meets more rows than these.
constexpr int64_t kUnpackedRows = 64;

// 16-bit operands are the built-in products', which convert them as they read.
static void product(grpo_context& context, const Product& p, const Destination& out) {
  if (p.m == 0 || p.n == 0) return;
  const bool floats = p.a.dtype == GRPO_F32 && p.b.dtype == GRPO_F32 && out.dtype == GRPO_F32;
  const bool by_rows = !p.transpose_a && p.transpose_b;
  if (context.blas && floats && p.k > 0 && !(by_rows && p.m <= kUnpackedRows)) {
    blas_product(context, p, out);
  } else if (by_rows) {
    dot_product(context, p, out);
  } else {
    blocked_product(context, p, out);
  }
}

void gemm(grpo_context& context, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Operand& a,
          const Operand& b, float* c, int64_t ldc, bool accumulate) {
  product(context, {transpose_a, transpose_b, m, n, k, a, b}, {c, ldc, GRPO_F32, {nullptr, 0, GRPO_F32}, accumulate});
}

grpo_status matmul(grpo_context& context, const grpo_matmul_args& args) {
  if (auto status = check_matmul(context, args)) return status;
  const bool transpose_a = args.transpose_a != 0, transpose_b = args.transpose_b != 0;
  const int64_t m = args.out.shape[0], n = args.out.shape[1];
  const int64_t k = args.a.shape[transpose_a ? 0 : 1];
  product(context, {transpose_a, transpose_b, m, n, k, operand(args.a), operand(args.b)},
          {args.out.data, args.out.row_stride, args.out.dtype, operand(args.bias), args.accumulate != 0});
  return GRPO_OK;
}
