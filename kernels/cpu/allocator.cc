#include "allocator.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

namespace grpo {

namespace {

constexpr size_t kAlignment = 64;

// Sizes are rounded up to an eighth of their power of two, so that batches of slightly different length share blocks.
size_t block_size(size_t bytes) {
  const size_t step = std::max(kAlignment, std::bit_floor(std::max<size_t>(bytes, 1)) / 8);
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

void* aligned(size_t bytes) {
  return std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace

Allocator::~Allocator() {
  trim();
  for (const auto& [data, size] : live_) std::free(data);
}

void* Allocator::allocate(size_t bytes) {
  const size_t size = block_size(bytes);
  void* data = nullptr;
  auto& cached = cached_[size];
  if (!cached.empty()) {
    data = cached.back();
    cached.pop_back();
  } else {
    data = aligned(size);
    if (!data) {
      trim();
      data = aligned(size);
    }
    if (!data) return nullptr;
    memory_.reserved_bytes += size;
  }
  live_[data] = size;
  memory_.live_bytes += size;
  memory_.peak_bytes = std::max(memory_.peak_bytes, memory_.live_bytes);
  return data;
}

void Allocator::release(void* data) {
  const auto found = live_.find(data);
  if (found == live_.end()) return;
  memory_.live_bytes -= found->second;
  cached_[found->second].push_back(data);
  live_.erase(found);
}

void Allocator::trim() {
  for (auto& [size, blocks] : cached_) {
    for (void* data : blocks) std::free(data);
    memory_.reserved_bytes -= size * blocks.size();
  }
  cached_.clear();
}

Scratch::~Scratch() { std::free(data_); }

void* Scratch::reserve(size_t bytes) {
  if (bytes > bytes_) {
    const size_t size = block_size(bytes);
    std::free(data_);
    bytes_ = 0;
    data_ = aligned(size);
    if (!data_) throw std::bad_alloc();
    bytes_ = size;
  }
  return data_;
}

}  // namespace grpo
