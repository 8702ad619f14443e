// policy_loss_from_logits. Compiled once an instruction set (isa/kernels.inc).
//
// Where a token's gradient depends on no other token's log-prob a thread finishes a row while it is in the cache: its
// log-prob, the gradient of its loss, and that of its logits. Loss and statistics then come from policy_loss over the N
// numbers. Few rows, whose chunks are spread over the threads, and the other options take the three operations.

#include "../common/policy_loss_steps.h"

template <class T, class U>
void policy_rows(grpo_context& context, const T* logits, int64_t stride, const GradientRows<U>& out, int64_t rows,
                 int64_t columns, const PolicyLossSteps& steps, const PolicyOptions& options,
                 const SequenceTerms* terms) {
  const GradientInputs inputs = gradient_inputs(steps.backward, {0, columns, true});
  const LogProbOutputs log_probs = {float_data(steps.forward.log_probs), float_data(steps.forward.entropy),
                                    float_data(steps.forward.log_sum_exp)};
  const PolicyTokens tokens = policy_tokens(steps.loss);
  const int32_t* mask = static_cast<const int32_t*>(steps.loss.mask.data);
  const int32_t* offsets = static_cast<const int32_t*>(steps.loss.sequence_offsets.data);
  const int32_t* offsets_end = offsets + steps.loss.sequence_offsets.shape[0];
  parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int) {
    int64_t b = std::upper_bound(offsets, offsets_end, begin) - offsets - 1;
    for (int64_t row = begin; row < end; ++row) {
      while (offsets[b + 1] <= row) ++b;
      const T* x = logits + row * stride;
      const bool masked = is_masked(mask, row);
      const RowStatistics statistics = masked ? empty_row() : row_statistics<true>(x, columns, inputs.transform);
      write_log_prob(log_probs, row, x, inputs.targets[row], masked, statistics, inputs.transform);
      if (masked) {
        tokens.grad_log_probs[row] = 0.0f;
        if (tokens.grad_entropy) tokens.grad_entropy[row] = 0.0f;
      } else {
        SequenceResult counted_later = empty_result();
        token_block(tokens.from(row), 1, options, terms[b], counted_later);
      }
      gradient_row(x, out, columns, row, inputs, &statistics);
    }
  });
}

grpo_status policy_loss_from_logits(grpo_context& context, const grpo_policy_loss_from_logits_args& args) {
  const PolicyLossSteps steps(args);
  if (auto status = check_policy_loss_from_logits(context, args, steps, kStatisticCount)) return status;
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  const PolicyCall call = policy_call(steps.loss);
  if (few_rows(context, rows) || call.options.needs_sequence_statistics()) {
    if (auto status = token_log_probs(context, steps.forward)) return status;
    if (auto status = policy_loss(context, steps.loss)) return status;
    return token_log_probs_backward(context, steps.backward);
  }
  const int64_t sequences = args.sequence_offsets.shape[0] - 1;
  const int32_t* offsets = static_cast<const int32_t*>(args.sequence_offsets.data);
  const int32_t* mask = static_cast<const int32_t*>(args.mask.data);
  auto* terms = static_cast<SequenceTerms*>(context.shared_scratch(sequences * sizeof(SequenceTerms)));
  for (int64_t b = 0; b < sequences; ++b) {
    const double count = static_cast<double>(count_active(mask, offsets[b], offsets[b + 1]));
    terms[b] = terms_of_sequence(steps.loss, call, b, count, {});
  }
  with_float_type(args.logits, [&](const auto* logits) {
    with_float_type(args.grad_logits, [&](auto* grad_logits) {
      const auto out = gradient_output(logits, grad_logits, args.grad_logits.row_stride, rows, columns);
      policy_rows(context, logits, args.logits.row_stride, out, rows, columns, steps, call.options, terms);
    });
  });
  return policy_loss(context, steps.loss);
}
