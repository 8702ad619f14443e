// The matrix product for other kernels of the same instruction set. Included once by isa/kernels.inc.
#pragma once

// A row-major operand as it is stored: `stride` elements from one row to the next, dtype f32, bf16 or f16.
struct Operand {
  const void* data;
  int64_t stride;
  int32_t dtype;
};

static inline Operand operand(const grpo_tensor& t) { return {t.data, t.row_stride, t.dtype}; }

// c[m,n] = op(a)[m,k] op(b)[k,n], or += with `accumulate`, on all threads. With transpose_a `a` is stored [k,m], with
// transpose_b `b` is stored [n,k]. `c` is float32 with `ldc` elements from row to row and must not overlap the
// operands. The built-in product gives a row of `c` the same bits whatever the other rows and the number of threads.
// Uses the scratch space of the workers, not the shared one.
void gemm(grpo_context& context, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Operand& a,
          const Operand& b, float* c, int64_t ldc, bool accumulate);
