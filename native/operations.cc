#include "operations.h"

namespace grpo_native {

namespace {

#define GRPO_NAME(field) #field,
#define GRPO_NOTHING(field)

// A closing entry keeps the arrays from being empty; it is not counted.
#define GRPO_DEFINE_FIELDS(op)                                                                    \
  constexpr const char* op##_tensors[] = {GRPO_FIELDS_##op(GRPO_NAME, GRPO_NOTHING) nullptr};     \
  constexpr const char* op##_scalars[] = {GRPO_FIELDS_##op(GRPO_NOTHING, GRPO_NAME) nullptr};     \
  static_assert(sizeof(grpo_##op##_args) == (std::size(op##_tensors) - 1) * sizeof(grpo_tensor) + \
                                                (std::size(op##_scalars) - 1) * sizeof(double),   \
                "tensors and scalars must lie one after another");                                \
  grpo_status call_##op(const grpo_backend& backend, grpo_context* context, const void* args) {   \
    return backend.op(context, static_cast<const grpo_##op##_args*>(args));                       \
  }
GRPO_OPERATIONS(GRPO_DEFINE_FIELDS)

#define GRPO_ENTRY(op)                                              \
  {#op, std::span(op##_tensors).first(std::size(op##_tensors) - 1), \
   std::span(op##_scalars).first(std::size(op##_scalars) - 1), call_##op},
const Operation kOperations[] = {GRPO_OPERATIONS(GRPO_ENTRY)};

}  // namespace

std::span<const Operation> operations() { return kOperations; }

}  // namespace grpo_native
