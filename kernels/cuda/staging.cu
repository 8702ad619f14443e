#include <cstring>

#include "staging.h"

namespace grpo_cuda {

cudaError_t Staging::open() {
  cudaError_t error = cudaMallocHost(&memory_, kSlots * kSlotBytes);
  for (int i = 0; i < kSlots && error == cudaSuccess; ++i) {
    error = cudaEventCreateWithFlags(&copied_[i], cudaEventDisableTiming);
  }
  return error;
}

void Staging::close() {
  for (const cudaEvent_t event : copied_) {
    if (event) cudaEventDestroy(event);
  }
  if (memory_) cudaFreeHost(memory_);
}

cudaError_t Staging::upload(void* device, const void* host, size_t bytes, cudaStream_t stream) {
  void* slot = static_cast<char*>(memory_) + next_ * kSlotBytes;
  if (const cudaError_t error = cudaEventSynchronize(copied_[next_])) return error;
  std::memcpy(slot, host, bytes);
  if (const cudaError_t error = cudaMemcpyAsync(device, slot, bytes, cudaMemcpyHostToDevice, stream)) return error;
  const cudaError_t error = cudaEventRecord(copied_[next_], stream);
  next_ = (next_ + 1) % kSlots;
  return error;
}

}  // namespace grpo_cuda
