// The operations, as kernels/include/grpo.h lists them: declared here, each defined in the file of its family; and what
// all of them use.
#pragma once

#include "launch.h"
#include "reduce.h"
#include "storage.h"
// After context.h, which it needs:
// clang-format off
#include "../common/checks.h"
// clang-format on

namespace grpo_cuda {

#define GRPO_DECLARE_OPERATION(op) grpo_status op(grpo_context& context, const grpo_##op##_args& args);
GRPO_OPERATIONS(GRPO_DECLARE_OPERATION)
#undef GRPO_DECLARE_OPERATION

}  // namespace grpo_cuda
