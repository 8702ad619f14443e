#include <algorithm>

#include "memory_pool.h"

namespace grpo_cuda {

namespace {
constexpr size_t kLargestCopy = 1 << 20;  // bytes; index tensors are smaller
}

cudaError_t MemoryPool::open(int ordinal, cudaStream_t stream) {
  stream_ = stream;
  if (const cudaError_t error = cudaDeviceGetDefaultMemPool(&pool_, ordinal)) return error;
  uint64_t keep = UINT64_MAX;  // released memory stays with the process
  return cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep);
}

void MemoryPool::close() {
  for (const auto& entry : live_) cudaFreeAsync(reinterpret_cast<void*>(entry.first), stream_);
  live_.clear();
}

void MemoryPool::trim() { cudaMemPoolTrimTo(pool_, 0); }

cudaError_t MemoryPool::reserve(size_t bytes, void** data) {
  cudaError_t error = require_no_capture(stream_);
  if (error == cudaSuccess) error = cudaMallocAsync(data, bytes, stream_);
  if (error == cudaErrorMemoryAllocation) {
    // The pool may hold memory in pieces of other sizes: hand it back, and ask once more.
    cudaGetLastError();
    cudaStreamSynchronize(stream_);
    trim();
    error = cudaMallocAsync(data, bytes, stream_);
  }
  if (error == cudaSuccess) return error;
  cudaGetLastError();
  *data = nullptr;
  return error;
}

cudaError_t MemoryPool::allocate(size_t bytes, void** data) {
  if (const cudaError_t error = reserve(std::max<size_t>(bytes, 1), data)) return error;
  live_[reinterpret_cast<uintptr_t>(*data)] = {bytes, {}};
  memory_.live_bytes += bytes;
  memory_.peak_bytes = std::max(memory_.peak_bytes, memory_.live_bytes);
  return cudaSuccess;
}

void MemoryPool::release(void* data) {
  const auto found = live_.find(reinterpret_cast<uintptr_t>(data));
  if (found == live_.end()) return;
  memory_.live_bytes -= found->second.bytes;
  live_.erase(found);
  cudaFreeAsync(data, stream_);
}

grpo_memory MemoryPool::memory() const {
  grpo_memory memory = memory_;
  uint64_t reserved = 0;
  if (cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved) != cudaSuccess) reserved = 0;
  memory.reserved_bytes = std::max<uint64_t>(reserved, memory.live_bytes);
  return memory;
}

MemoryPool::Allocations::const_iterator MemoryPool::find(const void* data) const {
  const auto address = reinterpret_cast<uintptr_t>(data);
  auto next = live_.upper_bound(address);
  if (next == live_.begin()) return live_.end();
  --next;
  return address < next->first + std::max<size_t>(next->second.bytes, 1) ? next : live_.end();
}

const void* MemoryPool::find_copy(const void* data, size_t bytes) const {
  const auto found = find(data);
  if (found == live_.end()) return nullptr;
  const std::vector<unsigned char>& copy = found->second.copy;
  const size_t offset = reinterpret_cast<uintptr_t>(data) - found->first;
  return offset + bytes <= copy.size() ? copy.data() + offset : nullptr;
}

void MemoryPool::keep_copy(const void* data, const void* host, size_t bytes) {
  const auto found = find(data);
  if (found == live_.end()) return;
  auto& allocation = live_.at(found->first);
  const size_t offset = reinterpret_cast<uintptr_t>(data) - found->first;
  const auto* from = static_cast<const unsigned char*>(host);
  if (offset == 0 && bytes == allocation.bytes && bytes <= kLargestCopy) {
    allocation.copy.assign(from, from + bytes);
  } else if (offset + bytes <= allocation.copy.size()) {
    std::copy_n(from, bytes, allocation.copy.begin() + static_cast<std::ptrdiff_t>(offset));
  } else {
    allocation.copy.clear();
  }
}

void MemoryPool::forget_copy(const void* data) {
  const auto found = find(data);
  if (found != live_.end()) live_.at(found->first).copy.clear();
}

void MemoryPool::forget_copies() {
  for (auto& entry : live_) entry.second.copy.clear();
}

}  // namespace grpo_cuda
