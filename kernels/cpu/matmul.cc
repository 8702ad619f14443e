// matmul. Compiled once an instruction set (isa/kernels.inc).

void gemm(grpo_context& context, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Operand& a,
          const Operand& b, float* c, int64_t ldc, bool accumulate) {
  const auto at = [](const Operand& x, int64_t row, int64_t column) {
    const int64_t i = row * x.stride + column;
    if (x.dtype == GRPO_BF16) return to_float(static_cast<const bf16*>(x.data)[i]);
    if (x.dtype == GRPO_F16) return to_float(static_cast<const f16*>(x.data)[i]);
    return static_cast<const float*>(x.data)[i];
  };
  parallel_for(context, m, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float sum = accumulate ? c[i * ldc + j] : 0.0f;
        for (int64_t l = 0; l < k; ++l) {
          sum = sfma(transpose_a ? at(a, l, i) : at(a, i, l), transpose_b ? at(b, j, l) : at(b, l, j), sum);
        }
        c[i * ldc + j] = sum;
      }
    }
  });
}
