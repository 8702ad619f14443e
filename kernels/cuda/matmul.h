#pragma once

#include "blas.h"
#include "context.h"

namespace grpo_cuda {

// out [m,n] = op(a) op(b) (+ out) of any float dtypes, summed in float32. Operands of different dtypes are first
// converted to float32.
grpo_status product(grpo_context& context, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                    const Matrix& a, const Matrix& b, const Matrix& out, bool accumulate);

}  // namespace grpo_cuda
