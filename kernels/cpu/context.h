// What a CPU device holds: its threads, its memory, its scratch space and the kernels chosen for its processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../common/error_record.h"
#include "../include/grpo.h"
#include "allocator.h"
#include "blas.h"
#include "thread_pool.h"

namespace grpo {

// The operations as one instruction set compiles them (kernels/cpu/isa/).
struct Kernels {
  const char* isa;
#define GRPO_KERNEL_POINTER(op) grpo_status (*op)(grpo_context&, const grpo_##op##_args&);
  GRPO_OPERATIONS(GRPO_KERNEL_POINTER)
#undef GRPO_KERNEL_POINTER
};

extern const Kernels kKernelsBaseline;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
#endif

}  // namespace grpo

struct grpo_context : ErrorRecord {
  grpo_context(int threads, const grpo::Kernels& kernels, const grpo::Blas* blas)
      : kernels(kernels), blas(blas), pool(threads), scratch_(threads + 1) {}

  const grpo::Kernels& kernels;
  const grpo::Blas* blas;  // nullptr: the built-in matrix product
  grpo::ThreadPool pool;
  grpo::Allocator allocator;
  std::string description;

  // Scratch space of one worker inside a parallel loop, 64-byte aligned; the content does not outlive the operation.
  void* worker_scratch(int worker, size_t bytes) { return scratch_[worker].reserve(bytes); }
  // Scratch space of the operation itself, shared by its workers.
  void* shared_scratch(size_t bytes) { return scratch_.back().reserve(bytes); }

  // What checks.h asks of a context.
  const int32_t* host_integers(const grpo_tensor& t) const { return static_cast<const int32_t*>(t.data); }
  bool checks_indices() const { return true; }

 private:
  std::vector<grpo::Scratch> scratch_;
};
