// The row kernels that token_log_probs and the fused head share.
#pragma once

#include "row_softmax.h"

namespace grpo_cuda {

// Each may be nullptr.
struct LogProbOutputs {
  float *log_probs, *entropy, *log_sum_exp;
  PartialRow* partial;
};

// `logits` [N,V] may begin at entry `vocab_start` of the vocabulary. `mask` may be nullptr: no row is left out.
grpo_status log_prob_rows(grpo_context& context, const grpo_tensor& logits, const int32_t* targets, const int32_t* mask,
                          int64_t vocab_start, const RowTransform& transform, const LogProbOutputs& out);

// What the gradient of a row is made from.
struct GradientInputs {
  const int32_t* targets;
  const float *log_sum_exp, *entropy, *grad_log_probs, *grad_entropy;  // entropy and grad_entropy may be nullptr
  RowTransform transform;
  int64_t vocab_start;
  bool whole_vocabulary;
};

// grad_logits [N,V], possibly in the place of the logits. Rows without a gradient get zeros and are not read.
grpo_status gradient_rows(grpo_context& context, const grpo_tensor& logits, const grpo_tensor& grad_logits,
                          const GradientInputs& inputs);

}  // namespace grpo_cuda
