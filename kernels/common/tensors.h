// What hosts ask of tensors.
#pragma once

#include "../include/grpo.h"
#include "storage_types.h"

static inline int64_t element_bytes(const grpo_tensor& t) {
  return t.dtype == GRPO_BF16 || t.dtype == GRPO_F16 ? 2 : 4;
}
static inline int64_t column_count(const grpo_tensor& t) { return t.rank == 0 ? 1 : t.shape[t.rank - 1]; }
static inline int64_t row_count(const grpo_tensor& t) {
  int64_t rows = 1;
  for (int d = 0; d + 1 < t.rank; ++d) rows *= t.shape[d];
  return rows;
}
static inline float* float_data(const grpo_tensor& t) { return static_cast<float*>(t.data); }

// Calls body(typed pointer) for the float storage type of a tensor.
template <class F>
static inline auto with_float_type(const grpo_tensor& t, const F& body) {
  switch (t.dtype) {
    case GRPO_BF16:
      return body(static_cast<bf16*>(t.data));
    case GRPO_F16:
      return body(static_cast<f16*>(t.data));
    default:
      return body(static_cast<float*>(t.data));
  }
}
