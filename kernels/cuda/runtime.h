// CUDA as the kernels use it: the runtime, and the few things that need a word of their own where the host's compiler
// builds the same files for tests (test/cuda-on-cpu, GRPO_CUDA_ON_CPU).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grpo_cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// The block's dynamic shared memory, aligned to 128 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef GRPO_CUDA_ON_CPU
  return reinterpret_cast<T*>(cuda_on_cpu::dynamic_shared());
#else
  extern __shared__ __align__(128) unsigned char grpo_dynamic_shared[];
  return reinterpret_cast<T*>(grpo_dynamic_shared);
#endif
}

}  // namespace grpo_cuda
