// CUDA as the kernels use it: the runtime, and the few things that need a word of their own where the host's compiler
// builds the same files for tests (test/cuda-on-cpu, GRPO_CUDA_ON_CPU).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace grpo_cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

// An error while the stream is being captured into a graph, by this library or by its caller (PyTorch, say): memory
// that is then reserved belongs to the graph, and a copy from the host would be made at each launch.
inline cudaError_t require_no_capture(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (const cudaError_t error = cudaStreamIsCapturing(stream, &status)) return error;
  return status == cudaStreamCaptureStatusNone ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

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

// 2 to the x, to 2 units in the last place; 0 where the result is subnormal.
__device__ __forceinline__ float fast_exp2(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return x < -126.0f ? 0.0f : exp2f(x);
#endif
}

// An address in shared memory, as instructions of its own take it.
#ifdef GRPO_CUDA_ON_CPU
using SharedAddress = uintptr_t;
#else
using SharedAddress = unsigned;
#endif
__device__ __forceinline__ SharedAddress shared_address(const void* data) {
#ifdef GRPO_CUDA_ON_CPU
  return reinterpret_cast<uintptr_t>(data);
#else
  return static_cast<unsigned>(__cvta_generic_to_shared(data));
#endif
}

// Begins a copy of 16 bytes to shared memory, or of zeros without `valid`; `from` is a valid address either way, and
// both are multiples of 16. This thread may read them after wait_for_copies(), the others after a barrier that follows.
__device__ __forceinline__ void copy_async(SharedAddress to, const void* from, bool valid = true) {
#ifdef GRPO_CUDA_ON_CPU
  cuda_on_cpu::copy_async(reinterpret_cast<void*>(to), from, valid ? 16 : 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
#endif
}
__device__ __forceinline__ void wait_for_copies() {
#ifdef GRPO_CUDA_ON_CPU
  cuda_on_cpu::wait_for_copies();
#else
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

// ---- clusters: blocks that run together and reach each other's shared memory ----------------------------------------

#if defined(GRPO_CUDA_ON_CPU) || !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define GRPO_HAS_CLUSTERS
#endif
constexpr int kClusterCapability = 9;  // major version from which a device has them
constexpr unsigned kMostClusterBlocks = 8;

#ifdef GRPO_HAS_CLUSTERS
// Waits for all blocks of the cluster that have not ended; what they wrote to each other's memory is then visible.
__device__ __forceinline__ void cluster_barrier() {
  __syncwarp();
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
// A shared variable of this block, in another block of the cluster, which has passed a barrier and waits at a later
// one.
template <class T>
__device__ __forceinline__ T* in_block(T* shared, unsigned rank) {
  return static_cast<T*>(__cluster_map_shared_rank(shared, rank));
}
#endif

}  // namespace grpo_cuda
