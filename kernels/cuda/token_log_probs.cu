// token_log_probs, its gradient, and the two halves that heads split over the vocabulary need.
//
// Many rows: a block takes a whole row. Few rows: a block takes a part of a row, and the last block of a row joins
// them.

#include "log_prob_rows.h"
#include "operations.h"

namespace grpo_cuda {

grpo_status token_log_probs(grpo_context& context, const grpo_token_log_probs_args& args) {
  const int64_t columns = args.logits.shape[1];
  if (auto status = check_log_probs(context, "tokenLogProbs", args.temperature, args.softcap, args.targets, columns))
    return status;
  const LogProbOutputs out = {float_data(args.log_probs), float_data(args.entropy), float_data(args.log_sum_exp),
                              nullptr};
  return log_prob_rows(context, args.logits, int_data(args.targets), int_data(args.mask), 0,
                       row_transform(args.temperature, args.softcap), out);
}

grpo_status token_log_probs_partial(grpo_context& context, const grpo_token_log_probs_partial_args& args) {
  VocabularySlice slice;
  if (auto status =
          check_slice(context, "tokenLogProbsPartial", args.vocab_start, args.vocab_size, args.logits.shape[1], &slice))
    return status;
  if (auto status =
          check_log_probs(context, "tokenLogProbsPartial", args.temperature, args.softcap, args.targets, slice.vocab))
    return status;
  const LogProbOutputs out = {nullptr, nullptr, nullptr, static_cast<PartialRow*>(args.partial.data)};
  return log_prob_rows(context, args.logits, int_data(args.targets), nullptr, slice.start,
                       row_transform(args.temperature, args.softcap), out);
}

namespace {

__global__ void __launch_bounds__(kWarp)
    merge_kernel(const PartialRow* partials, int64_t slices, int64_t rows, LogProbOutputs out) {
  const int64_t row = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  if (row >= rows) return;
  float target = 0.0f;
  for (int64_t i = 0; i < slices; ++i) target += partials[i * rows + row].target;  // all but one are 0
  RowStatistics all = empty_row();
  // In ascending order: the n-th is the one that n others come before. Slices are few.
  for (int64_t n = 0; n < slices; ++n) {
    for (int64_t i = 0; i < slices; ++i) {
      const PartialRow& p = partials[i * rows + row];
      int64_t before = 0;
      for (int64_t j = 0; j < slices; ++j) {
        const PartialRow& q = partials[j * rows + row];
        before += partial_before(q, p) || (j < i && !partial_before(p, q));
      }
      if (before == n) all = join_statistics(all, {p.max, p.sum, p.weighted}, 1.0f);
    }
  }
  out.log_probs[row] = row_log_prob(all, target, 1.0f);
  if (out.entropy) out.entropy[row] = row_entropy(all);
  if (out.log_sum_exp) out.log_sum_exp[row] = row_log_sum_exp(all, 1.0f);
}

}  // namespace

grpo_status token_log_probs_merge(grpo_context& context, const grpo_token_log_probs_merge_args& args) {
  const int64_t slices = args.partials.shape[0], rows = args.partials.shape[1];
  if (rows == 0) return GRPO_OK;
  const LogProbOutputs out = {float_data(args.log_probs), float_data(args.entropy), float_data(args.log_sum_exp),
                              nullptr};
  return launch(context, merge_kernel, {dim3(static_cast<unsigned>(ceil_divide(rows, kWarp))), dim3(kWarp)},
                static_cast<const PartialRow*>(args.partials.data), slices, rows, out);
}

grpo_status token_log_probs_backward(grpo_context& context, const grpo_token_log_probs_backward_args& args) {
  VocabularySlice slice;
  if (auto status = check_token_log_probs_backward(context, args, &slice)) return status;
  const GradientInputs inputs = {int_data(args.targets),
                                 float_data(args.log_sum_exp),
                                 float_data(args.entropy),
                                 float_data(args.grad_log_probs),
                                 float_data(args.grad_entropy),
                                 row_transform(args.temperature, args.softcap),
                                 slice.start,
                                 slice.whole};
  return gradient_rows(context, args.logits, args.grad_logits, inputs);
}

}  // namespace grpo_cuda
