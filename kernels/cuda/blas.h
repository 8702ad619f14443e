// Matrix products by cuBLAS, found at run time: the kernels that need none work without it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "../include/grpo.h"
#include "runtime.h"

namespace grpo_cuda {

// A matrix in row-major order, `stride` elements from one row to the next.
struct Matrix {
  void* data;
  int dtype;
  int64_t stride;
};

class Blas {
 public:
  // Finds the library; what stands in its way is told by the first product.
  explicit Blas(cudaStream_t stream);
  ~Blas();
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;

  bool found() const { return handle_ != nullptr; }
  // Without one, cuBLAS reserves memory when it needs some.
  bool has_workspace() const { return workspace_ != nullptr; }
  // The library and its version, or why there is none.
  const std::string& description() const { return description_; }

  // out [m,n] = op(a) op(b) (+ out), summed in float32: a and b have one dtype, out has the same or is f32. Gives
  // cuBLAS's status, 0 for success.
  int product(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b,
              const Matrix& out, bool accumulate) const;

 private:
  struct Functions;
  std::unique_ptr<const Functions> functions_;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  cudaStream_t stream_;
  std::string description_;
};

}  // namespace grpo_cuda
