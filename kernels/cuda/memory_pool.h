// Memory of a CUDA device: CUDA's own stream-ordered pool, which keeps what is released for the next request; here it
// is counted. Small uploads are kept on the host as well, so that index tensors can be checked without waiting for the
// device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "../include/grpo.h"
#include "runtime.h"

namespace grpo_cuda {

class MemoryPool {
 public:
  // Of the current device.
  cudaError_t open(int ordinal, cudaStream_t stream);
  // Frees what is live.
  void close();
  // Gives the system what is neither live nor on its way to be: the work of the device has ended.
  void trim();

  // Memory that is not counted; nullptr and CUDA's error when there is none.
  cudaError_t reserve(size_t bytes, void** data);
  cudaError_t allocate(size_t bytes, void** data);
  void release(void* data);
  grpo_memory memory() const;

  // The host's copy of `bytes` bytes from `data` on; nullptr when there is none.
  const void* find_copy(const void* data, size_t bytes) const;
  // Notes what was uploaded to, or read from, `data`.
  void keep_copy(const void* data, const void* host, size_t bytes);
  void forget_copy(const void* data);
  void forget_copies();

 private:
  struct Allocation {
    size_t bytes;
    std::vector<unsigned char> copy;  // of the whole allocation, or empty
  };
  using Allocations = std::map<uintptr_t, Allocation>;
  Allocations::const_iterator find(const void* data) const;

  Allocations live_;
  grpo_memory memory_{};
  cudaMemPool_t pool_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

}  // namespace grpo_cuda
