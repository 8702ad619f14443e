// The operations of grpo.h as data: names for the test that compares them with backend.ts, counts for reading
// arguments, and a way to call each through a backend's table. Nothing here knows what an operation computes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "../kernels/include/grpo.h"

namespace grpo_native {

struct Operation {
  const char* name;
  std::span<const char* const> tensors;
  std::span<const char* const> scalars;
  // Calls the operation; `args` is its argument struct: the tensors, then the scalars.
  grpo_status (*call)(const grpo_backend& backend, grpo_context* context, const void* args);
};

// In the order of GRPO_OPERATIONS.
std::span<const Operation> operations();

#define GRPO_SIZE_OF_ARGS(op) sizeof(grpo_##op##_args),
constexpr size_t kLargestArgs = std::max({GRPO_OPERATIONS(GRPO_SIZE_OF_ARGS) size_t{0}});
#undef GRPO_SIZE_OF_ARGS

constexpr int kMaxTensors = kLargestArgs / sizeof(grpo_tensor);

}  // namespace grpo_native
