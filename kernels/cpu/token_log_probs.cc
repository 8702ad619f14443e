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

// Whether a row is left out. A mask may be null.
bool is_masked(const int32_t* mask, int64_t row) { return mask && mask[row] == 0; }

// Statistics of every row that the mask keeps, for few rows; uses `parts` for chunk_count(columns) entries a row.
template <bool kEntropy, class T>
void few_row_statistics(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                        const int32_t* mask, const RowTransform& transform, RowStatistics* parts, RowStatistics* out) {
  const int64_t chunks = chunk_count(columns);
  for_chunks(context, rows, columns, [&](int64_t row, int64_t column, int64_t n) {
    if (is_masked(mask, row)) return;
    parts[row * chunks + column / kRowChunk] = chunk_statistics<kEntropy>(logits + row * stride + column, n, transform);
  });
  for (int64_t row = 0; row < rows; ++row) {
    out[row] = empty_row();
    for (int64_t i = 0; i < chunks && !is_masked(mask, row); ++i)
      out[row] = join_statistics(out[row], parts[row * chunks + i], transform.inverse_temperature);
  }
}

// use(row, statistics) for every row, from any thread; the statistics of a masked row are those of an empty one.
template <bool kEntropy, class T, class F>
void for_row_statistics(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                        const int32_t* mask, const RowTransform& transform, const F& use) {
  if (!few_rows(context, rows)) {
    parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        use(row,
            is_masked(mask, row) ? empty_row() : row_statistics<kEntropy>(logits + row * stride, columns, transform));
      }
    });
    return;
  }
  const int64_t chunks = chunk_count(columns);
  auto* parts = static_cast<RowStatistics*>(context.worker_scratch(0, rows * (chunks + 1) * sizeof(RowStatistics)));
  RowStatistics* all = parts + rows * chunks;
  few_row_statistics<kEntropy>(context, logits, stride, rows, columns, mask, transform, parts, all);
  for (int64_t row = 0; row < rows; ++row) use(row, all[row]);
}

// What is written of a row, whose logits begin at `x`; of a masked one, zeros.
template <class T>
void write_log_prob(const LogProbOutputs& out, int64_t row, const T* x, int32_t target, bool masked,
                    const RowStatistics& statistics, const RowTransform& transform) {
  const float inverse = transform.inverse_temperature;
  out.log_probs[row] = masked ? 0.0f : row_log_prob(statistics, capped_logit(x[target], transform), inverse);
  if (out.entropy) out.entropy[row] = masked ? 0.0f : row_entropy(statistics);
  if (out.log_sum_exp) out.log_sum_exp[row] = masked ? 0.0f : row_log_sum_exp(statistics, inverse);
}

// `mask` may be null: no row is left out.
template <class T>
void log_prob_rows(grpo_context& context, const T* logits, int64_t stride, int64_t rows, int64_t columns,
                   const int32_t* targets, const int32_t* mask, const RowTransform& transform,
                   const LogProbOutputs& out) {
  const auto use = [&](int64_t row, const RowStatistics& statistics) {
    write_log_prob(out, row, logits + row * stride, targets[row], is_masked(mask, row), statistics, transform);
  };
  if (out.entropy)
    for_row_statistics<true>(context, logits, stride, rows, columns, mask, transform, use);
  else
    for_row_statistics<false>(context, logits, stride, rows, columns, mask, transform, use);
}

grpo_status token_log_probs(grpo_context& context, const grpo_token_log_probs_args& args) {
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  if (auto status = check_log_probs(context, "tokenLogProbs", args.temperature, args.softcap, args.targets, columns))
    return status;
  with_float_type(args.logits, [&](const auto* logits) {
    log_prob_rows(context, logits, args.logits.row_stride, rows, columns, static_cast<int32_t*>(args.targets.data),
                  static_cast<int32_t*>(args.mask.data), row_transform(args.temperature, args.softcap),
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

  int64_t target(int64_t row) const { return targets[row] - vocab_start; }
  // Of the row that begins at `x`; 0 where a slice does not hold it.
  template <class T>
  T target_logit(const T* x, int64_t columns, int64_t row) const {
    const int64_t at = target(row);
    return at < 0 || at >= columns ? T{} : x[at];
  }
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

// Where gradients are written.
template <class U>
struct GradientRows {
  U* data;
  int64_t stride;
  bool stream;  // past the caches
};

template <class T, class U>
GradientRows<U> gradient_output(const T* logits, U* out, int64_t stride, int64_t rows, int64_t columns) {
  // In place the row is in the cache already; a small output is read again soon.
  const bool in_place = static_cast<const void*>(logits) == static_cast<const void*>(out);
  return {out, stride, !in_place && rows * columns * static_cast<int64_t>(sizeof(U)) > (int64_t{8} << 20)};
}

// The target's element, when the rest of the row has been written and adds up to `others`.
template <class T, class U>
void finish_target(T target_logit, U* y, int64_t columns, int64_t row, double others, const RowGradient& gradient,
                   const GradientInputs& inputs) {
  const int64_t target = inputs.target(row);
  if (target < 0 || target >= columns) return;
  if (inputs.whole_vocabulary)
    write_target(target_logit, y + target, others, inputs.transform);
  else
    write_slice_target(target_logit, y + target, inputs.grad_log_probs[row], gradient, inputs.transform);
}

// A row by one thread. `known`: its statistics, where the caller has them.
template <class T, class U>
void gradient_row(const T* x, const GradientRows<U>& out, int64_t columns, int64_t row, const GradientInputs& inputs,
                  const RowStatistics* known) {
  U* y = out.data + row * out.stride;
  if (inputs.is_zero(row)) {
    std::memset(static_cast<void*>(y), 0, columns * sizeof(U));
    return;
  }
  const RowGradient gradient =
      !inputs.needs_statistics(row)
          ? inputs.from_stored(row)
          : inputs.from_statistics(row, known ? *known : row_statistics<true>(x, columns, inputs.transform));
  const T target_logit = inputs.target_logit(x, columns, row);
  double others = 0.0;
  for (int64_t i = 0; i < columns; i += kRowChunk) {
    others += chunk_gradient(x + i, y + i, std::min(kRowChunk, columns - i), inputs.target(row) - i, gradient,
                             inputs.transform.softcap, out.stream);
  }
  if (out.stream) finish_streams();
  finish_target(target_logit, y, columns, row, others, gradient, inputs);
}

template <class T, class U>
void gradient_rows(grpo_context& context, const T* logits, int64_t stride, U* grad_logits, int64_t out_stride,
                   int64_t rows, int64_t columns, const GradientInputs& inputs) {
  const RowTransform& transform = inputs.transform;
  const GradientRows<U> out = gradient_output(logits, grad_logits, out_stride, rows, columns);
  if (!few_rows(context, rows)) {
    parallel_for(context, rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row)
        gradient_row(logits + row * stride, out, columns, row, inputs, nullptr);
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
  if (fresh) few_row_statistics<true>(context, logits, stride, rows, columns, nullptr, transform, parts, all);
  for (int64_t row = 0; row < rows; ++row) {
    if (inputs.is_zero(row)) continue;
    gradients[row] = inputs.needs_statistics(row) ? inputs.from_statistics(row, all[row]) : inputs.from_stored(row);
    target_logits[row] = inputs.target_logit(logits + row * stride, columns, row);
  }
  for_chunks(context, rows, columns, [&](int64_t row, int64_t column, int64_t n) {
    U* y = out.data + row * out.stride + column;
    if (inputs.is_zero(row)) {
      std::memset(static_cast<void*>(y), 0, n * sizeof(U));
      return;
    }
    sums[row * chunks + column / kRowChunk] =
        chunk_gradient(logits + row * stride + column, y, n, inputs.target(row) - column, gradients[row],
                       transform.softcap, out.stream);
    if (out.stream) finish_streams();
  });
  for (int64_t row = 0; row < rows; ++row) {
    if (inputs.is_zero(row)) continue;
    double others = 0.0;
    for (int64_t i = 0; i < chunks; ++i) others += sums[row * chunks + i];
    finish_target(target_logits[row], out.data + row * out.stride, columns, row, others, gradients[row], inputs);
  }
}

GradientInputs gradient_inputs(const grpo_token_log_probs_backward_args& args, const VocabularySlice& slice) {
  return {static_cast<int32_t*>(args.targets.data),
          float_data(args.log_sum_exp),
          float_data(args.entropy),
          float_data(args.grad_log_probs),
          float_data(args.grad_entropy),
          row_transform(args.temperature, args.softcap),
          slice.start,
          slice.whole};
}

grpo_status token_log_probs_backward(grpo_context& context, const grpo_token_log_probs_backward_args& args) {
  VocabularySlice slice;
  if (auto status = check_token_log_probs_backward(context, args, &slice)) return status;
  const int64_t rows = args.logits.shape[0], columns = args.logits.shape[1];
  const GradientInputs inputs = gradient_inputs(args, slice);
  with_float_type(args.logits, [&](const auto* logits) {
    with_float_type(args.grad_logits, [&](auto* out) {
      gradient_rows(context, logits, args.logits.row_stride, out, args.grad_logits.row_stride, rows, columns, inputs);
    });
  });
  return GRPO_OK;
}
