// Pinned memory of the host that small uploads go through. CUDA does not promise that an asynchronous copy has read
// other memory when it returns ("might be synchronous"), and their caller frees it then.
#pragma once

#include <cstddef>

#include "runtime.h"

namespace grpo_cuda {

class Staging {
 public:
  static constexpr size_t kSlotBytes = 256u << 10;  // most of an upload

  cudaError_t open();
  void close();
  // Queues the copy; `host` has been read when this returns. Waits where the copies of all slots are still to come.
  cudaError_t upload(void* device, const void* host, size_t bytes, cudaStream_t stream);

 private:
  static constexpr int kSlots = 32;

  void* memory_ = nullptr;
  cudaEvent_t copied_[kSlots] = {};
  int next_ = 0;
};

}  // namespace grpo_cuda
