// CUDA as the kernels use it: the runtime, and the few things that need a word of their own where the host's compiler
// builds the same files for tests (test/cuda-on-cpu, GRPO_CUDA_ON_CPU).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grpo_cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// The block's dynamic shared memory, aligned to 16 bytes.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef GRPO_CUDA_ON_CPU
  return reinterpret_cast<T*>(cuda_on_cpu::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char grpo_dynamic_shared[];
  return reinterpret_cast<T*>(grpo_dynamic_shared);
#endif
}

// ---- clusters (sm_90 and later): blocks that run together and read each other's dynamic shared memory ---------------

#if defined(GRPO_CUDA_ON_CPU)
inline unsigned cluster_rank() { return cuda_on_cpu::cluster_rank(); }
inline void cluster_sync() { cuda_on_cpu::cluster_sync(); }
template <class T>
T load_from_cluster(const T* address, unsigned rank) {
  return *static_cast<const T*>(cuda_on_cpu::cluster_address(const_cast<T*>(address), rank));
}
#else
__device__ __forceinline__ unsigned cluster_rank() {
#if __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
// A barrier of all threads of the cluster; also orders their accesses to shared memory. No block may end before the
// last block has read from it.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
// The value at `address` of this block's shared memory, in the shared memory of block `rank`.
template <class T>
__device__ __forceinline__ T load_from_cluster(const T* address, unsigned rank) {
  static_assert(sizeof(T) % 4 == 0);
#if __CUDA_ARCH__ >= 900
  const unsigned own = static_cast<unsigned>(__cvta_generic_to_shared(address));
  unsigned theirs;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(theirs) : "r"(own), "r"(rank));
  union {
    T value;
    unsigned words[sizeof(T) / 4];
  } result;
#pragma unroll
  for (unsigned i = 0; i < sizeof(T) / 4; ++i) {
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(result.words[i]) : "r"(theirs + 4 * i) : "memory");
  }
  return result.value;
#else
  return *address;
#endif
}
#endif

}  // namespace grpo_cuda
