// Sums and maxima over warps and blocks, always in the same order.
#pragma once

#include "runtime.h"

namespace grpo_cuda {

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// The value of the lane whose number differs in the bits of `distance`; any type of whole words.
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int distance) {
  static_assert(sizeof(T) % 4 == 0);
  union {
    T value;
    unsigned words[sizeof(T) / 4];
  } parts;
  parts.value = value;
#pragma unroll
  for (unsigned i = 0; i < sizeof(T) / 4; ++i) parts.words[i] = __shfl_xor_sync(kWholeWarp, parts.words[i], distance);
  return parts.value;
}

// The result in every lane.
template <class Join, class T>
__device__ __forceinline__ T warp_reduce(T value, const Join& join = {}) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = join(value, shuffle_xor(value, distance));
  }
  return value;
}

// The result in every thread of a block of kThreads (a multiple of 32). All threads call it.
template <int kThreads, class Join, class T>
__device__ __forceinline__ T block_reduce(T value, const Join& join = {}) {
  constexpr int kWarps = kThreads / kWarp;
  value = warp_reduce(value, join);
  if constexpr (kWarps > 1) {
    __shared__ T parts[kWarps];
    __syncthreads();  // the last use of `parts` has ended
    const int thread = threadIdx.x + blockDim.x * threadIdx.y;
    if (thread % kWarp == 0) parts[thread / kWarp] = value;
    __syncthreads();
    value = parts[0];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) value = join(value, parts[i]);
  }
  return value;
}

// Whether this block is the last of `blocks` to come here; what the others wrote before is then visible to it. All
// threads call it, once a block; `counter` is 0 before the launch and after it.
__device__ __forceinline__ bool is_last_block(unsigned* counter, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0) {
    last = atomicAdd(counter, 1u) == blocks - 1;
    if (last) *counter = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

}  // namespace grpo_cuda
