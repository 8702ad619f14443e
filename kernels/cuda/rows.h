// What operations do with rows on the way to something else.
#pragma once

#include "context.h"

namespace grpo_cuda {

// out = in, two float tensors of the same shape, rounded to the dtype of `out`.
grpo_status convert_floats(grpo_context& context, const grpo_tensor& in, const grpo_tensor& out);

// gather_rows and scatter_rows with indices that are known to be in range.
grpo_status gather_chosen(grpo_context& context, const grpo_tensor& in, const grpo_tensor& indices,
                          const grpo_tensor& out);
grpo_status scatter_chosen(grpo_context& context, const grpo_tensor& in, const grpo_tensor& indices,
                           const grpo_tensor& out);

}  // namespace grpo_cuda
