// What a CUDA device holds: its stream, its memory, scratch space, and the library for matrix products.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../common/error_record.h"
#include "../include/grpo.h"
#include "memory_pool.h"
#include "runtime.h"
#include "staging.h"

namespace grpo_cuda {
class Blas;

// Scratch space that may be in use at the same time.
enum ScratchSlot { kOperationScratch, kProductScratch, kRowScratch, kScratchSlots };
}  // namespace grpo_cuda

// A graph of captured operations (graph.cu).
struct grpo_graph {
  cudaGraphExec_t executable = nullptr;
  unsigned scratch_moves = 0;         // of the context, when it was captured
  std::vector<const void*> integers;  // i32 tensors that it writes
};

struct grpo_context : ErrorRecord {
  // Throws std::runtime_error with what is wrong.
  grpo_context(int ordinal, const std::string& options);
  ~grpo_context();
  grpo_context(const grpo_context&) = delete;
  grpo_context& operator=(const grpo_context&) = delete;

  cudaStream_t stream() const { return stream_; }
  int processors() const { return properties_.multiProcessorCount; }
  size_t shared_memory() const { return properties_.sharedMemPerBlockOptin; }  // most bytes a block may have
  bool has_clusters() const { return properties_.major >= grpo_cuda::kClusterCapability; }
  const grpo_cuda::Blas& blas() const { return *blas_; }
  grpo_cuda::MemoryPool& pool() { return pool_; }

  // Device memory for the operation in progress, aligned to 256 bytes; nullptr, with the error recorded, when there is
  // none. The next operation may use it again: the stream keeps them apart.
  void* scratch(size_t bytes, grpo_cuda::ScratchSlot slot = grpo_cuda::kOperationScratch);
  // Counters for is_last_block(): zero before each launch, and left so.
  unsigned* counters() { return counters_; }
  static constexpr int kCounters = 1 << 12;

  // The values of a contiguous i32 tensor, on the host: a copy kept since they were uploaded, else they are read,
  // which waits for the device. nullptr, with the error recorded, on failure, and while operations are captured: a
  // graph could not look at the values of its launches. Valid until the next call.
  const int32_t* host_integers(const grpo_tensor& t);
  // To be called by operations that write i32 tensors.
  void written(const grpo_tensor& t) {
    pool_.forget_copy(t.data);
    if (capture_) capture_->integers.push_back(t.data);
  }
  // Whether index tensors are checked before use (option check_indices, on unless 0): kernels stay inside their memory
  // in any case, but give NaN for an index out of range instead of an error. Graphs check none.
  bool checks_indices() const { return checks_indices_ && !capture_; }

  // Between the two, operations are noted for a graph instead of queued; nothing may wait, reserve or free memory.
  bool captures() const { return capture_ != nullptr; }
  grpo_status begin_capture();
  grpo_status end_capture(grpo_graph** graph);
  grpo_status launch(const grpo_graph& graph);
  void release(grpo_graph* graph);

  // fail() for an error of CUDA in `call`. All but a lack of memory leave the device unusable.
  grpo_status fail_with(cudaError_t error, const char* call);

  // `host` has been read when this returns.
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
  grpo_cuda::Staging staging_;
  grpo_cuda::Blas* blas_ = nullptr;
  Scratch scratch_[grpo_cuda::kScratchSlots];
  unsigned scratch_moves_ = 0;
  std::unique_ptr<grpo_graph> capture_;  // in the making
  unsigned* counters_ = nullptr;
  std::string integers_;  // storage of host_integers
  std::string lost_;
};
