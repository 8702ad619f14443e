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

// A call's options, and what its loss is divided by.
struct PolicyCall {
  PolicyOptions options;
  double token_denominator, sequence_denominator, entropy_scale;
};

PolicyCall policy_call(const grpo_policy_loss_args& args) {
  const int64_t tokens = args.log_probs.shape[0], sequences = args.sequence_offsets.shape[0] - 1;
  const int32_t* mask = static_cast<const int32_t*>(args.mask.data);
  PolicyCall call = {policy_options(args), args.token_denominator, args.sequence_denominator, 0.0};
  if (!(call.token_denominator > 0.0))
    call.token_denominator = std::max<double>(static_cast<double>(count_active(mask, 0, tokens)), 1.0);
  if (!(call.sequence_denominator > 0.0)) call.sequence_denominator = std::max<double>(sequences, 1);
  double acted_on = 1.0;
  if (call.options.high_entropy_mask) {
    call.options.entropy_threshold = float_data(args.entropy_threshold)[0];
    acted_on = float_data(args.entropy_threshold)[1];
  }
  call.entropy_scale = scale_of_entropy(args.entropy_coefficient, call.token_denominator, acted_on);
  call.options.grad_entropy = static_cast<float>(call.entropy_scale);
  return call;
}

bool has_sequence_advantages(const grpo_policy_loss_args& args) {
  return args.advantages.shape[0] == args.sequence_offsets.shape[0] - 1;
}

PolicyTokens policy_tokens(const grpo_policy_loss_args& args) {
  return {float_data(args.log_probs),      float_data(args.old_log_probs),
          float_data(args.ref_log_probs),  float_data(args.rollout_log_probs),
          float_data(args.entropy),        has_sequence_advantages(args) ? nullptr : float_data(args.advantages),
          float_data(args.grad_log_probs), float_data(args.grad_entropy)};
}

double scale_of_sequence(const grpo_policy_loss_args& args, const PolicyCall& call, double count) {
  return loss_scale(call.options.loss_type, count, call.token_denominator, call.sequence_denominator,
                    args.max_completion_length);
}

// Of sequence b, `count` of whose tokens are active; `sums` are 0 where the options do not need them.
SequenceTerms terms_of_sequence(const grpo_policy_loss_args& args, const PolicyCall& call, int64_t b, double count,
                                const SequenceSums& sums) {
  const float advantage = has_sequence_advantages(args) ? float_data(args.advantages)[b] : 0.0f;
  return sequence_terms(sums, count, advantage, scale_of_sequence(args, call, count), call.options);
}

grpo_status policy_loss(grpo_context& context, const grpo_policy_loss_args& args) {
  if (auto status = check_policy_loss(context, args, kStatisticCount)) return status;
  const int64_t sequences = args.sequence_offsets.shape[0] - 1;
  const int32_t* offsets = static_cast<const int32_t*>(args.sequence_offsets.data);
  const int32_t* mask = static_cast<const int32_t*>(args.mask.data);
  const PolicyTokens inputs = policy_tokens(args);
  const PolicyCall call = policy_call(args);
  const PolicyOptions& options = call.options;

  auto* results = static_cast<SequenceResult*>(context.shared_scratch((sequences + 1) * sizeof(SequenceResult)));
  parallel_for(context, sequences, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = offsets[b], end = offsets[b + 1];
      const double count = static_cast<double>(count_active(mask, begin, end));
      const double scale = scale_of_sequence(args, call, count);
      SequenceSums statistics = {};
      if (options.needs_sequence_statistics()) statistics = sum_sequence(inputs, mask, begin, end, options);
      const SequenceTerms terms = terms_of_sequence(args, call, b, count, statistics);
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
  if (args.entropy_coefficient != 0.0) total.loss += call.entropy_scale * total.acted_entropy;
  *float_data(args.loss) = static_cast<float>(total.loss);
  for (int k = 0; k < kSumCount; ++k) float_data(args.statistics)[k] = static_cast<float>(total.sums[k]);
  std::copy_n(total.extremes, kStatisticCount - kSumCount, float_data(args.statistics) + kSumCount);
  return GRPO_OK;
}
