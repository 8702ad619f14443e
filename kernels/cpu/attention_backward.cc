// attention_backward. Compiled once an instruction set (isa/kernels.inc).
//
// With s = scale * q k, p = exp(s - lse) and delta_i = grad_out_i out_i:
//   ds_ij = p_ij (grad_out_i v_j - delta_i) scale
//   grad_q_i = sum_j ds_ij k_j      grad_k_j = sum_i ds_ij q_i      grad_v_j = sum_i p_ij grad_out_i
// One thread has all query heads of one key head of a sequence, and adds in the order of heads and rows.

constexpr int64_t kGradRows =
    kWidth;  // query rows at a time, so that a tile of probabilities can be turned in registers

// Where a worker keeps one key head of one sequence, each row `width` floats, each row of a probability `stride`.
struct AttentionGradScratch {
  float *keys, *values, *grad_keys, *grad_values;  // a row a key
  float *queries, *grad_out, *out, *grad_queries;  // kGradRows rows
  float* score_grads;                              // ds, kGradRows rows over the keys
  float *turned_weights, *turned_score_grads;      // p and ds, a row of kGradRows a key

  static size_t floats(int64_t length, int64_t width) {
    return 4 * length * width + 4 * kGradRows * width + 3 * kGradRows * whole_vectors(length);
  }
  AttentionGradScratch(float* at, int64_t length, int64_t width) {
    const auto take = [&](int64_t n) {
      float* taken = at;
      at += n;
      return taken;
    };
    for (float** rows : {&keys, &values, &grad_keys, &grad_values}) *rows = take(length * width);
    for (float** rows : {&queries, &grad_out, &out, &grad_queries}) *rows = take(kGradRows * width);
    for (float** rows : {&score_grads, &turned_weights, &turned_score_grads}) {
      *rows = take(kGradRows * whole_vectors(length));
    }
  }
};

// Fills ds, and p and ds turned, for the query rows at positions [first, first + rows) of a sequence.
static void score_gradients(const AttentionGradScratch& s, const HeadLayout& layout, int64_t first, int64_t rows,
                            int64_t stride, const float* log_sum_exp, float scale) {
  const int64_t width = layout.width, keys = first + rows;
  float deltas[kGradRows];
  for (int64_t r = 0; r < rows; ++r) deltas[r] = sum_of_products(s.grad_out + r * width, s.out + r * width, width);
  const RowRuns key_rows = {s.keys, keys, nullptr, width}, value_rows = {s.values, keys, nullptr, width};
  for (int64_t j = 0; j < keys; j += kWidth) {
    const RowTile key_tile(key_rows, j, keys), value_tile(value_rows, j, keys);
    vfloat weights[kGradRows] = {}, score_grads[kGradRows] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t seen = first + r + 1 - j;
      if (seen <= 0) continue;
      const vfloat score = dot_tile(s.queries + r * width, key_tile, width) * scale;
      const vfloat weight = vexp_nonpositive(score - log_sum_exp[r]);
      const vfloat grad = dot_tile(s.grad_out + r * width, value_tile, width);
      const vint kept = lane_numbers() < vset_int(static_cast<int32_t>(std::min<int64_t>(seen, kWidth)));
      weights[r] = vselect(kept, weight, vfloat{});
      score_grads[r] = vselect(kept, weight * (grad - deltas[r]) * scale, vfloat{});
      vstore(s.score_grads + r * stride + j, score_grads[r]);
    }
    transpose_step<kWidth / 2>(weights);
    transpose_step<kWidth / 2>(score_grads);
    for (int t = 0; t < kWidth; ++t) {
      vstore(s.turned_weights + (j + t) * kGradRows, weights[t]);
      vstore(s.turned_score_grads + (j + t) * kGradRows, score_grads[t]);
    }
  }
}

// to[j] += sum over r of weights[j][r] * in[r], over the query rows r from position `first` on that see key j.
static void add_query_rows(float* to, const float* weights, const float* in, int64_t first, int64_t rows,
                           int64_t width) {
  const RowRuns in_rows = {in, rows, nullptr, width};
  for (int64_t j = 0; j < first + rows; j += kRowBlock) {
    const int64_t count = std::min<int64_t>(kRowBlock, first + rows - j);
    const int64_t common = std::max<int64_t>(0, j + count - 1 - first);
    for (int64_t t = 0; t < count; ++t) {
      add_weighted_rows(1, to + (j + t) * width, width, weights + (j + t) * kGradRows, kGradRows, in_rows,
                        std::max<int64_t>(0, j + t - first), common, width);
    }
    add_weighted_rows(count, to + j * width, width, weights + j * kGradRows, kGradRows, in_rows, common, rows, width);
  }
}

grpo_status attention_backward(grpo_context& context, const grpo_attention_backward_args& args) {
  HeadLayout layout;
  const char* name = "attentionBackward";
  if (auto status = head_layout(context, name, args.queries, args.keys, args.head_dim, &layout)) return status;
  if (auto status = check_sequences(context, name, args.sequence_offsets, args.queries.shape[0], args.max_length)) {
    return status;
  }
  const int32_t* offsets = static_cast<const int32_t*>(args.sequence_offsets.data);
  const float* log_sum_exp = static_cast<const float*>(args.log_sum_exp.data);
  const float scale = static_cast<float>(args.scale);
  const int64_t sequences = args.sequence_offsets.shape[0] - 1, width = layout.width;
  int64_t longest = 0;
  for (int64_t b = 0; b < sequences; ++b) longest = std::max<int64_t>(longest, offsets[b + 1] - offsets[b]);
  const int64_t stride = whole_vectors(longest);

  parallel_for(context, sequences * layout.key_heads, 1, [&](int64_t begin, int64_t end, int worker) {
    const size_t bytes = AttentionGradScratch::floats(longest, width) * sizeof(float);
    const AttentionGradScratch s(static_cast<float*>(context.worker_scratch(worker, bytes)), longest, width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t key_head = i % layout.key_heads, start = offsets[i / layout.key_heads];
      const int64_t length = offsets[i / layout.key_heads + 1] - start;
      gather_head(args.keys, start, length, key_head, layout, s.keys);
      gather_head(args.values, start, length, key_head, layout, s.values);
      std::fill_n(s.grad_keys, length * width, 0.0f);
      std::fill_n(s.grad_values, length * width, 0.0f);
      for (int64_t head = key_head * layout.group; head < (key_head + 1) * layout.group; ++head) {
        for (int64_t first = 0; first < length; first += kGradRows) {
          const int64_t row = start + first, rows = std::min(kGradRows, length - first);
          gather_head(args.queries, row, rows, head, layout, s.queries);
          gather_head(args.grad_out, row, rows, head, layout, s.grad_out);
          gather_head(args.out, row, rows, head, layout, s.out);
          float sums[kGradRows];
          for (int64_t r = 0; r < rows; ++r) sums[r] = log_sum_exp[(row + r) * args.log_sum_exp.row_stride + head];
          score_gradients(s, layout, first, rows, stride, sums, scale);

          const RowRuns key_rows = {s.keys, length, nullptr, width};
          std::fill_n(s.grad_queries, rows * width, 0.0f);
          for (int64_t r = 0; r < rows; r += kRowBlock) {
            const int64_t count = std::min<int64_t>(kRowBlock, rows - r), common = first + r + 1;
            float* grad = s.grad_queries + r * width;
            const float* weights = s.score_grads + r * stride;
            add_weighted_rows(count, grad, width, weights, stride, key_rows, 0, common, width);
            for (int64_t t = 1; t < count; ++t) {
              add_weighted_rows(1, grad + t * width, width, weights + t * stride, stride, key_rows, common, common + t,
                                width);
            }
          }
          scatter_head(args.grad_queries, row, rows, head, layout, s.grad_queries);
          add_query_rows(s.grad_keys, s.turned_score_grads, s.queries, first, rows, width);
          add_query_rows(s.grad_values, s.turned_weights, s.grad_out, first, rows, width);
        }
      }
      scatter_head(args.grad_keys, start, length, key_head, layout, s.grad_keys);
      scatter_head(args.grad_values, start, length, key_head, layout, s.grad_values);
    }
  });
  return GRPO_OK;
}
