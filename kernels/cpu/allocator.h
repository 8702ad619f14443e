// Memory of a CPU device: 64-byte aligned blocks, kept for reuse by size, because returning large blocks to the system
// costs a page fault for every page at the next use. Counts what is live.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "../include/grpo.h"

namespace grpo {

class Allocator {
 public:
  Allocator() = default;
  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  void* allocate(size_t bytes);  // nullptr when there is no memory
  void release(void* data);
  const grpo_memory& memory() const { return memory_; }

 private:
  void trim();

  std::unordered_map<void*, size_t> live_;
  std::unordered_map<size_t, std::vector<void*>> cached_;
  grpo_memory memory_{};
};

// A block that only grows.
class Scratch {
 public:
  Scratch() = default;
  Scratch(Scratch&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  ~Scratch();

  void* reserve(size_t bytes);  // throws std::bad_alloc

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace grpo
