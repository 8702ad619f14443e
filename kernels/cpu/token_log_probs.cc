// token_log_probs, its gradient, and the two halves that heads split over the vocabulary need. Compiled once an
// instruction set (isa/kernels.inc).
//
// Many rows: a thread takes whole rows. Few rows: a row's chunks are spread over the threads. Either way a row is cut
// at the same places and joined in the same order, so the bits do not depend on it.

struct LogProbOutputs {
  float* log_probs;
  float* entropy;      // may be null
  float* log_sum_exp;  // may be null
};

bool few_rows(const grpo_context& context, int64_t rows) { return rows < 2 * context.pool.threads(); }

int64_t chunk_count(int64_t columns) { return (columns + kRowChunk - 1) / kRowChunk; }

// body(row, first column, columns) for every chunk of every row.
template <class F>
void for_chunks(grpo_context& context, int64_t rows, int64_t columns, const F& body) {
  const int64_t chunks = chunk_count(columns);
  parallel_for(context, rows * chunks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i % chunks * kRowChunk;
      body(i / chunks, column, std::min(kRowChunk, columns - column));
    }
  });
}

// Statistics of every row, for few rows; uses `parts` for chunk_count(columns) entries a row.
template <bool kEntropy, class T>
void few_row_statistics(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                        const RowTransform& transform, RowStatistics* parts, RowStatistics* out) {
  const int64_t chunks = chunk_count(columns);
  for_chunks(context, rows, columns, [&](int64_t row, int64_t column, int64_t n) {
    parts[row * chunks + column / kRowChunk] = chunk_statistics<kEntropy>(logits + row * stride + column, n, transform);
  });
  for (int64_t row = 0; row < rows; ++row) {
    out[row] = empty_row();
    for (int64_t i = 0; i < chunks; ++i)
      out[row] = join_statistics(out[row], parts[row * chunks + i], transform.inverse_temperature);
  }
}

// use(row, statistics) for every row, from any thread.
template <bool kEntropy, class T, class F>
void for_row_statistics(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                        const RowTransform& transform, const F& use) {
  if (!few_rows(context, rows)) {
    parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row)
        use(row, row_statistics<kEntropy>(logits + row * stride, columns, transform));
    });
    return;
  }
  const int64_t chunks = chunk_count(columns);
  auto* parts = static_cast<RowStatistics*>(context.worker_scratch(0, rows * (chunks + 1) * sizeof(RowStatistics)));
  RowStatistics* all = parts + rows * chunks;
  few_row_statistics<kEntropy>(context, logits, stride, rows, columns, transform, parts, all);
  for (int64_t row = 0; row < rows; ++row) use(row, all[row]);
}

template <class T>
void log_prob_rows(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                   const int32_t* targets, const RowTransform& transform, const LogProbOutputs& out) {
  const auto use = [&](int64_t row, const RowStatistics& statistics) {
    const float logit = capped_logit(logits[row * stride + targets[row]], transform);
    out.log_probs[row] = row_log_prob(statistics, logit, transform.inverse_temperature);
    if (out.entropy) out.entropy[row] = row_entropy(statistics);
    if (out.log_sum_exp) out.log_sum_exp[row] = row_log_sum_exp(statistics, transform.inverse_temperature);
  };
  if (out.entropy)
    for_row_statistics<true>(context, logits, stride, rows, columns, transform, use);
  else
    for_row_statistics<false>(context, logits, stride, rows, columns, transform, use);
}

grpo_status token_log_probs(grpo_context& context, const grpo_token_log_probs_args& args) {
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  if (auto status = check_log_probs(context, "tokenLogProbs", args.temperature, args.softcap, args.targets, columns))
    return status;
  with_float_type(args.logits, [&](const auto* logits) {
    log_prob_rows(context, logits, args.logits.row_stride, rows, columns, static_cast<int32_t*>(args.targets.data),
                  row_transform(args.temperature, args.softcap),
                  {float_data(args.log_probs), float_data(args.entropy), float_data(args.log_sum_exp)});
  });
  return GRPO_OK;
}

// ---- gradient ----

struct GradientInputs {
  const int32_t* targets;
  const float* log_sum_exp;
  const float* entropy;  // may be null
  const float* grad_log_probs;
  const float* grad_entropy;  // may be null
  RowTransform transform;
  int64_t vocab_start;
  bool whole_vocabulary;  // the rows are not a slice of longer ones

  double entropy_gradient(int64_t row) const { return grad_entropy ? grad_entropy[row] : 0.0; }
  bool is_zero(int64_t row) const { return grad_log_probs[row] == 0.0f && entropy_gradient(row) == 0.0; }

  // Then the row is read a second time, mostly from the cache.
  bool needs_statistics(int64_t row) const {
    return whole_vocabulary && needs_fresh_statistics(log_sum_exp[row], entropy_gradient(row));
  }
  RowGradient from_stored(int64_t row) const {
    return row_gradient(log_sum_exp[row], entropy ? entropy[row] : 0.0f, grad_log_probs[row], entropy_gradient(row),
                        transform.inverse_temperature);
  }
  RowGradient from_statistics(int64_t row, const RowStatistics& statistics) const {
    return row_gradient(statistics, grad_log_probs[row], entropy_gradient(row), transform.inverse_temperature);
  }
};

// The target's element of a slice: the others of the row are elsewhere, so g / T is added to the softmax part.
template <class T, class U>
void write_slice_target(T logit, U* out, float g, const RowGradient& row, const RowTransform& transform) {
  const float capped = capped_logit(logit, transform);
  float softmax_part;
  chunk_gradient<false>(&capped, &softmax_part, 1, -1, row, nullptr);
  const float derivative = softcap_derivative(to_float(logit), transform.softcap);
  *out = from_float<U>((g * transform.inverse_temperature + softmax_part) * derivative);
}

template <class T, class U>
void gradient_rows(grpo_context& context, const T* logits, int64_t stride, U* out, int64_t out_stride, int64_t rows,
                   int64_t columns, const GradientInputs& inputs) {
  const RowTransform& transform = inputs.transform;
  // In place the row is in the cache already; a small output is read again soon.
  const bool in_place = static_cast<const void*>(logits) == static_cast<const void*>(out);
  const bool stream = !in_place && rows * columns * static_cast<int64_t>(sizeof(U)) > (int64_t{8} << 20);

  const auto target_of = [&](int64_t row) { return inputs.targets[row] - inputs.vocab_start; };
  const auto finish = [&](int64_t row, T target_logit, double others, const RowGradient& gradient) {
    const int64_t target = target_of(row);
    if (target < 0 || target >= columns) return;
    U* to = out + row * out_stride + target;
    if (inputs.whole_vocabulary)
      write_target(target_logit, to, others, transform);
    else
      write_slice_target(target_logit, to, inputs.grad_log_probs[row], gradient, transform);
  };
  const auto target_logit_of = [&](int64_t row) {
    const int64_t target = target_of(row);
    return target < 0 || target >= columns ? T{} : logits[row * stride + target];
  };

  if (!few_rows(context, rows)) {
    parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        const T* x = logits + row * stride;
        U* y = out + row * out_stride;
        if (inputs.is_zero(row)) {
          std::memset(static_cast<void*>(y), 0, columns * sizeof(U));
          continue;
        }
        const RowGradient gradient = inputs.needs_statistics(row)
                                         ? inputs.from_statistics(row, row_statistics<true>(x, columns, transform))
                                         : inputs.from_stored(row);
        const T target_logit = target_logit_of(row);
        double others = 0.0;
        for (int64_t i = 0; i < columns; i += kRowChunk) {
          others += chunk_gradient(x + i, y + i, std::min(kRowChunk, columns - i), target_of(row) - i, gradient,
                                   transform.softcap, stream);
        }
        if (stream) finish_streams();
        finish(row, target_logit, others, gradient);
      }
    });
    return;
  }

  const int64_t chunks = chunk_count(columns), parts_bytes = rows * chunks * sizeof(RowStatistics);
  char* scratch = static_cast<char*>(context.worker_scratch(
      0,
      parts_bytes + rows * (sizeof(RowStatistics) + sizeof(RowGradient) + sizeof(T)) + rows * chunks * sizeof(double)));
  auto* parts = reinterpret_cast<RowStatistics*>(scratch);
  auto* all = parts + rows * chunks;
  auto* sums = reinterpret_cast<double*>(all + rows);
  auto* gradients = reinterpret_cast<RowGradient*>(sums + rows * chunks);
  auto* target_logits = reinterpret_cast<T*>(gradients + rows);
  bool fresh = false;
  for (int64_t row = 0; row < rows; ++row) fresh |= inputs.needs_statistics(row) && !inputs.is_zero(row);
  if (fresh) few_row_statistics<true>(context, logits, stride, rows, columns, transform, parts, all);
  for (int64_t row = 0; row < rows; ++row) {
    if (inputs.is_zero(row)) continue;
    gradients[row] = inputs.needs_statistics(row) ? inputs.from_statistics(row, all[row]) : inputs.from_stored(row);
    target_logits[row] = target_logit_of(row);
  }
  for_chunks(context, rows, columns, [&](int64_t row, int64_t column, int64_t n) {
    U* y = out + row * out_stride + column;
    if (inputs.is_zero(row)) {
      std::memset(static_cast<void*>(y), 0, n * sizeof(U));
      return;
    }
    sums[row * chunks + column / kRowChunk] = chunk_gradient(
        logits + row * stride + column, y, n, target_of(row) - column, gradients[row], transform.softcap, stream);
    if (stream) finish_streams();
  });
  for (int64_t row = 0; row < rows; ++row) {
    if (inputs.is_zero(row)) continue;
    double others = 0.0;
    for (int64_t i = 0; i < chunks; ++i) others += sums[row * chunks + i];
    finish(row, target_logits[row], others, gradients[row]);
  }
}

grpo_status token_log_probs_backward(grpo_context& context, const grpo_token_log_probs_backward_args& args) {
  VocabularySlice slice;
  if (auto status = check_token_log_probs_backward(context, args, &slice)) return status;
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  const GradientInputs inputs = {static_cast<int32_t*>(args.targets.data),
                                 float_data(args.log_sum_exp),
                                 float_data(args.entropy),
                                 float_data(args.grad_log_probs),
                                 float_data(args.grad_entropy),
                                 row_transform(args.temperature, args.softcap),
                                 slice.start,
                                 slice.whole};
  with_float_type(args.logits, [&](const auto* logits) {
    with_float_type(args.grad_logits, [&](auto* out) {
      gradient_rows(context, logits, args.logits.row_stride, out, args.grad_logits.row_stride, rows, columns, inputs);
    });
  });
  return GRPO_OK;
}
