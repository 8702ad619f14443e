// token_log_probs_partial and token_log_probs_merge: a head whose vocabulary is split into slices. Compiled once an
// instruction set (isa/kernels.inc).

grpo_status token_log_probs_partial(grpo_context& context, const grpo_token_log_probs_partial_args& args) {
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  VocabularySlice slice;
  if (auto status = check_slice(context, "tokenLogProbsPartial", args.vocab_start, args.vocab_size, columns, &slice))
    return status;
  if (auto status =
          check_log_probs(context, "tokenLogProbsPartial", args.temperature, args.softcap, args.targets, slice.vocab))
    return status;
  const RowTransform transform = row_transform(args.temperature, args.softcap);
  const int32_t* targets = static_cast<int32_t*>(args.targets.data);
  auto* out = static_cast<PartialRow*>(args.partial.data);
  with_float_type(args.logits, [&](const auto* logits) {
    const int64_t stride = args.logits.row_stride;
    for_row_statistics<true>(
        context, logits, stride, rows, columns, nullptr, transform, [&](int64_t row, const RowStatistics& statistics) {
          const int64_t target = targets[row] - slice.start;
          const bool here = target >= 0 && target < columns;
          out[row] = {
              statistics.max * transform.inverse_temperature, static_cast<float>(statistics.sum),
              static_cast<float>(statistics.weighted),
              here ? capped_logit(logits[row * stride + target], transform) * transform.inverse_temperature : 0.0f};
        });
  });
  return GRPO_OK;
}

grpo_status token_log_probs_merge(grpo_context& context, const grpo_token_log_probs_merge_args& args) {
  const int64_t slices = args.partials.shape[0], rows = args.partials.shape[1];
  const auto* partials = static_cast<const PartialRow*>(args.partials.data);
  parallel_for(context, rows, 64, [&](int64_t begin, int64_t end, int worker) {
    auto* sorted = static_cast<PartialRow*>(context.worker_scratch(worker, slices * sizeof(PartialRow)));
    for (int64_t row = begin; row < end; ++row) {
      float target = 0.0f;
      for (int64_t slice = 0; slice < slices; ++slice) {
        const PartialRow& partial = partials[slice * rows + row];
        target += partial.target;  // all but one are 0
        int64_t place = slice;
        for (; place > 0 && partial_before(partial, sorted[place - 1]); --place) sorted[place] = sorted[place - 1];
        sorted[place] = partial;
      }
      RowStatistics all = empty_row();
      for (int64_t i = 0; i < slices; ++i)
        all = join_statistics(all, {sorted[i].max, sorted[i].sum, sorted[i].weighted}, 1.0f);
      float_data(args.log_probs)[row] = row_log_prob(all, target, 1.0f);
      if (args.entropy.data) float_data(args.entropy)[row] = row_entropy(all);
      if (args.log_sum_exp.data) float_data(args.log_sum_exp)[row] = row_log_sum_exp(all, 1.0f);
    }
  });
  return GRPO_OK;
}
