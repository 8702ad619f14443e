// policy_loss. Compiled once an instruction set (isa/kernels.inc).
//
// Sequences are independent: a thread takes whole ones. A sequence's active tokens are looked at in blocks; where
// tokens are masked the block is gathered first, so that a masked token is never computed on and a sequence's sums do
// not depend on where masked tokens stand. Sums of a block are kept in float lanes, joined in double in the order of
// blocks and then of sequences.

#include "policy_loss_block.h"

void add_result(SequenceResult& total, const SequenceResult& part) {
  total.loss += part.loss;
  total.acted_entropy += part.acted_entropy;
  for (int k = 0; k < kSumCount; ++k) total.sums[k] += part.sums[k];
  for (int k = 0; k < kStatisticCount - kSumCount; ++k) {
    float& x = total.extremes[k];
    x = is_minimum(kSumCount + k) ? std::min(x, part.extremes[k]) : std::max(x, part.extremes[k]);
  }
}

grpo_status policy_loss(grpo_context& context, const grpo_policy_loss_args& args) {
  if (auto status = check_policy_loss(context, args, kStatisticCount)) return status;
  const int64_t tokens = args.log_probs.shape[0], sequences = args.sequence_offsets.shape[0] - 1;
  const int32_t* offsets = static_cast<const int32_t*>(args.sequence_offsets.data);
  const int32_t* mask = static_cast<const int32_t*>(args.mask.data);
  const bool sequence_advantages = args.advantages.shape[0] == sequences;
  const PolicyTokens inputs = {
      float_data(args.log_probs),      float_data(args.old_log_probs),
      float_data(args.ref_log_probs),  float_data(args.rollout_log_probs),
      float_data(args.entropy),        sequence_advantages ? nullptr : float_data(args.advantages),
      float_data(args.grad_log_probs), float_data(args.grad_entropy)};
  PolicyOptions options = policy_options(args);

  const double token_denominator = args.token_denominator > 0.0
                                       ? args.token_denominator
                                       : std::max<double>(static_cast<double>(count_active(mask, 0, tokens)), 1.0);
  const double sequence_denominator =
      args.sequence_denominator > 0.0 ? args.sequence_denominator : std::max<double>(sequences, 1);

  double acted_on = 1.0;
  if (options.high_entropy_mask) {
    options.entropy_threshold = float_data(args.entropy_threshold)[0];
    acted_on = float_data(args.entropy_threshold)[1];
  }
  const double entropy_scale = scale_of_entropy(args.entropy_coefficient, token_denominator, acted_on);
  options.grad_entropy = static_cast<float>(entropy_scale);

  auto* results = static_cast<SequenceResult*>(context.shared_scratch((sequences + 1) * sizeof(SequenceResult)));
  parallel_for(context, sequences, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = offsets[b], end = offsets[b + 1];
      const double count = static_cast<double>(count_active(mask, begin, end));
      const double scale =
          loss_scale(options.loss_type, count, token_denominator, sequence_denominator, args.max_completion_length);
      SequenceSums statistics = {};
      if (options.needs_sequence_statistics()) statistics = sum_sequence(inputs, mask, begin, end, options);
      const SequenceTerms terms = sequence_terms(
          statistics, count, sequence_advantages ? float_data(args.advantages)[b] : 0.0f, scale, options);
      if (mask) {
        std::fill_n(inputs.grad_log_probs + begin, end - begin, 0.0f);
        if (inputs.grad_entropy) std::fill_n(inputs.grad_entropy + begin, end - begin, 0.0f);
      }
      results[b] = empty_result();
      double through_ratio = 0.0;
      for_active_blocks(inputs, mask, begin, end, [&](const PolicyTokens& block, int n) {
        through_ratio += token_block(block, n, options, terms, results[b]);
      });
      results[b].loss *= scale;
      if (options.sequence_level && count > 0.0) {
        const float share = static_cast<float>(through_ratio / count * scale);
        for (int64_t t = begin; t < end; ++t) inputs.grad_log_probs[t] += !mask || mask[t] ? share : 0.0f;
      }
      if (count > 0.0) {
        results[b].sums[kSequences] = 1.0;
        results[b].extremes[kLowClippedMin - kSumCount] = static_cast<float>(results[b].sums[kLowClippedSum] / count);
        results[b].extremes[kHighClippedMax - kSumCount] = static_cast<float>(results[b].sums[kHighClippedSum] / count);
      }
    }
  });

  SequenceResult& total = results[sequences];
  total = empty_result();
  for (int64_t b = 0; b < sequences; ++b) add_result(total, results[b]);
  if (args.entropy_coefficient != 0.0) total.loss += entropy_scale * total.acted_entropy;
  *float_data(args.loss) = static_cast<float>(total.loss);
  for (int k = 0; k < kSumCount; ++k) float_data(args.statistics)[k] = static_cast<float>(total.sums[k]);
  std::copy_n(total.extremes, kStatisticCount - kSumCount, float_data(args.statistics) + kSumCount);
  return GRPO_OK;
}
