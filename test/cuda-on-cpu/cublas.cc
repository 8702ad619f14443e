// The functions of cuBLAS that kernels/cuda/blas.cu looks for, on the processor.

#include <cstdint>
#include <vector>

#include "cuda_runtime.h"
// clang-format off
#include "../../kernels/include/grpo.h"
#include "../../kernels/common/storage_types.h"
// clang-format on

namespace {

float value(const void* data, int type, int64_t i) {
  if (type == 0) return static_cast<const float*>(data)[i];
  return type == 2 ? to_float(static_cast<const f16*>(data)[i]) : to_float(static_cast<const bf16*>(data)[i]);
}

struct Handle {
  int mode = 0;
  cudaStream_t stream = nullptr;
  bool has_workspace = false;
};

struct Product {
  int transpose_a, transpose_b, m, n, k;
  float alpha;
  const void* a;
  int type, lda;
  const void* b;
  int ldb;
  float beta;
  void* c;
  int c_type, ldc;

  void operator()() const {
    std::vector<float> left(static_cast<size_t>(m) * k), right(k);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t l = 0; l < k; ++l) left[i * k + l] = value(a, type, transpose_a ? l + i * lda : i + l * lda);
    }
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t l = 0; l < k; ++l) right[l] = value(b, type, transpose_b ? j + l * ldb : l + j * ldb);
      for (int64_t i = 0; i < m; ++i) {
        double sum = 0.0;
        for (int64_t l = 0; l < k; ++l) sum += static_cast<double>(left[i * k + l]) * right[l];
        const int64_t at = i + j * ldc;
        const float old = beta == 0.0f ? 0.0f : beta * value(c, c_type, at);
        const float result = static_cast<float>(alpha * sum + old);
        if (c_type == 0) {
          static_cast<float*>(c)[at] = result;
        } else if (c_type == 2) {
          static_cast<f16*>(c)[at] = to_f16(result);
        } else {
          static_cast<bf16*>(c)[at] = to_bf16(result);
        }
      }
    }
  }
};

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int cublasCreate_v2(void** handle) { return *handle = new Handle, 0; }
__attribute__((visibility("default"))) int cublasDestroy_v2(void* handle) {
  return delete static_cast<Handle*>(handle), 0;
}
__attribute__((visibility("default"))) int cublasSetStream_v2(void* handle, cudaStream_t stream) {
  auto& own = *static_cast<Handle*>(handle);
  own.has_workspace = false;  // back to that of cuBLAS
  return own.stream = stream, 0;
}
__attribute__((visibility("default"))) int cublasSetWorkspace_v2(void* handle, void* workspace, size_t) {
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return 7;
  return static_cast<Handle*>(handle)->has_workspace = true, 0;
}
__attribute__((visibility("default"))) int cublasGetVersion_v2(void*, int* version) { return *version = 130000, 0; }

__attribute__((visibility("default"))) int cublasSetMathMode(void* handle, int mode) {
  return static_cast<Handle*>(handle)->mode = mode, 0;
}

// c [m,n] = alpha op(a) op(b) + beta c, columns first; the combinations of types that cuBLAS has, and no others.
// Results of 16 bits only in the mode in which all sums are float32: 16,
// CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION.
__attribute__((visibility("default"))) int cublasGemmEx(void* handle, int transpose_a, int transpose_b, int m, int n,
                                                        int k, const void* alpha, const void* a, int a_type, int lda,
                                                        const void* b, int b_type, int ldb, const void* beta, void* c,
                                                        int c_type, int ldc, int compute_type, int) {
  if (a_type != b_type || (c_type != a_type && c_type != 0) || compute_type != 68) return 15;
  const Handle& own = *static_cast<Handle*>(handle);
  if (c_type != 0 && own.mode != 16) return 15;
  if (lda < (transpose_a ? k : m) || ldb < (transpose_b ? n : k) || ldc < m) return 7;
  // The factors are the host's, read when the product is asked for.
  const Product product = {transpose_a, transpose_b, m,   n, k,   *static_cast<const float*>(alpha),
                           a,           a_type,      lda, b, ldb, *static_cast<const float*>(beta),
                           c,           c_type,      ldc};
  // Without a workspace of the caller it might reserve memory, which ends a capture.
  if (own.stream && own.stream->captures(own.stream) && !own.has_workspace) return 13;
  if (own.stream) return own.stream->launch(own.stream, product) == cudaSuccess ? 0 : 14;
  product();
  return 0;
}

}  // extern "C"
