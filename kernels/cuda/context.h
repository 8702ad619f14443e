// What a CUDA device holds: its stream, its memory, scratch space, and the library for matrix products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "../common/error_record.h"
#include "../include/grpo.h"
#include "memory_pool.h"
#include "runtime.h"

namespace grpo_cuda {
class Blas;

// Scratch space that may be in use at the same time.
enum ScratchSlot { kOperationScratch, kProductScratch, kRowScratch, kScratchSlots };
}  // namespace grpo_cuda

struct grpo_context : ErrorRecord {
  // Throws std::runtime_error with what is wrong.
  grpo_context(int ordinal, const std::string& options);
  ~grpo_context();
  grpo_context(const grpo_context&) = delete;
  grpo_context& operator=(const grpo_context&) = delete;

  cudaStream_t stream() const { return stream_; }
  int processors() const { return properties_.multiProcessorCount; }
  size_t shared_memory() const { return properties_.sharedMemPerBlockOptin; }  // most bytes a block may have
  const grpo_cuda::Blas& blas() const { return *blas_; }
  grpo_cuda::MemoryPool& pool() { return pool_; }

  // Device memory for the operation in progress, aligned to 256 bytes; nullptr, with the error recorded, when there is
  // none. The next operation may use it again: the stream keeps them apart.
  void* scratch(size_t bytes, grpo_cuda::ScratchSlot slot = grpo_cuda::kOperationScratch);
  // Counters for is_last_block(): zero before each launch, and left so.
  unsigned* counters() { return counters_; }
  static constexpr int kCounters = 64;

  // The values of a contiguous i32 tensor, on the host: a copy kept since they were uploaded, else they are read,
  // which waits for the device. nullptr, with the error recorded, on failure. Valid until the next call.
  const int32_t* host_integers(const grpo_tensor& t);
  // To be called by operations that write i32 tensors.
  void written(const grpo_tensor& t) { pool_.forget_copy(t.data); }
  // Whether index tensors are checked before use (option check_indices, on unless 0): kernels stay inside their memory
  // in any case, but give NaN for an index out of range instead of an error.
  bool checks_indices() const { return checks_indices_; }

  // fail() for an error of CUDA in `call`. All but a lack of memory leave the device unusable.
  grpo_status fail_with(cudaError_t error, const char* call);

  grpo_status upload(void* device, const void* host, size_t bytes);
  grpo_status download(void* host, const void* device, size_t bytes);
  grpo_status synchronize();
  // What is queued on `then` from now on runs after what `first` holds.
  grpo_status order(cudaStream_t first, cudaStream_t then);

  // Why every call fails, once an error of CUDA has lost the device.
  bool lost() const { return !lost_.empty(); }
  // Makes this context's device the thread's own. To be called first in every function of the table.
  grpo_status enter();

  std::string description;

 private:
  struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
  };

  int ordinal_;
  cudaDeviceProp properties_;
  cudaStream_t stream_ = nullptr;
  bool owns_stream_ = true;
  cudaEvent_t event_ = nullptr;  // of order()
  bool checks_indices_ = true;
  grpo_cuda::MemoryPool pool_;
  grpo_cuda::Blas* blas_ = nullptr;
  Scratch scratch_[grpo_cuda::kScratchSlots];
  unsigned* counters_ = nullptr;
  std::string integers_;  // storage of host_integers
  std::string lost_;
};
