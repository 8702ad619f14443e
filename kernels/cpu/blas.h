// OpenBLAS, when the machine has it: loaded at run time, called from our threads with its own threads switched off.
#pragma once

#include <cstdint>
#include <string>

namespace grpo {

struct Blas {
  std::string library;  // the name it was found under
  std::string config;   // what it says of itself: version, kernels
  std::string core;     // the processor that its kernels are for
  // Whether those kernels leave out AVX2: what an OpenBLAS that is older than the processor may fall back to.
  bool is_without_avx2() const;
  // Row-major C[M,N] = op(A) op(B) + beta * C in float32.
  void sgemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
             const float* b, int64_t ldb, float beta, float* c, int64_t ldc) const;

  void* function = nullptr;  // cblas_sgemm
};

// nullptr when no OpenBLAS is found. Looked for once a process, never unloaded.
const Blas* find_blas();

}  // namespace grpo
