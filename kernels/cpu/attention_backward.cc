// attention_backward. Compiled once an instruction set (isa/kernels.inc).
//
// With s = scale * q k, p = exp(s - lse) and delta_i = grad_out_i out_i:
//   ds_ij = p_ij (grad_out_i v_j - delta_i) scale
//   grad_q_i = sum_j ds_ij k_j      grad_k_j = sum_i ds_ij q_i      grad_v_j = sum_i p_ij grad_out_i
// One thread has all query heads of one key head of a family (a sequence and those that continue it), and adds in the
// order of sequences, heads and rows.

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
  PackedSequences sequences;
  const char* name = "attentionBackward";
  if (auto status = head_layout(context, name, args.queries, args.keys, args.head_dim, &layout)) return status;
  if (auto status = packed_sequences(context, name, args.sequence_offsets, args.parents, args.queries.shape[0],
                                     args.max_length, &sequences)) {
    return status;
  }
  const float* log_sum_exp = static_cast<const float*>(args.log_sum_exp.data);
  const float scale = static_cast<float>(args.scale);
  const int64_t width = layout.width, stride = whole_vectors(sequences.longest);

  // One head of the own query rows of a sequence whose keys and values, with the parent's before them, are in `s`.
  const auto query_head = [&](const AttentionGradScratch& s, int64_t b, int64_t head) {
    const int64_t prefix = sequences.prefix_length(b), own = sequences.own_length(b);
    const RowRuns key_rows = {s.keys, prefix + own, nullptr, width};
    for (int64_t begin = 0; begin < own; begin += kGradRows) {
      const int64_t row = sequences.start(b) + begin, rows = std::min(kGradRows, own - begin), first = prefix + begin;
      gather_head(args.queries, row, rows, head, layout, s.queries);
      gather_head(args.grad_out, row, rows, head, layout, s.grad_out);
      gather_head(args.out, row, rows, head, layout, s.out);
      float sums[kGradRows];
      for (int64_t r = 0; r < rows; ++r) sums[r] = log_sum_exp[(row + r) * args.log_sum_exp.row_stride + head];
      score_gradients(s, layout, first, rows, stride, sums, scale);

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
  };
  // A sequence of a family: its own rows' gradients are complete then, those of the parent's rows stay in `s`.
  const auto sequence_head = [&](const AttentionGradScratch& s, int64_t b, int64_t key_head) {
    const int64_t prefix = sequences.prefix_length(b), own = sequences.own_length(b);
    gather_head(args.keys, sequences.start(b), own, key_head, layout, s.keys + prefix * width);
    gather_head(args.values, sequences.start(b), own, key_head, layout, s.values + prefix * width);
    std::fill_n(s.grad_keys + prefix * width, own * width, 0.0f);
    std::fill_n(s.grad_values + prefix * width, own * width, 0.0f);
    for (int64_t head = key_head * layout.group; head < (key_head + 1) * layout.group; ++head) query_head(s, b, head);
  };
  const auto write_sequence = [&](const AttentionGradScratch& s, int64_t b, int64_t key_head) {
    const int64_t prefix = sequences.prefix_length(b) * width;
    scatter_head(args.grad_keys, sequences.start(b), sequences.own_length(b), key_head, layout, s.grad_keys + prefix);
    scatter_head(args.grad_values, sequences.start(b), sequences.own_length(b), key_head, layout,
                 s.grad_values + prefix);
  };

  parallel_for(context, sequences.count * layout.key_heads, 1, [&](int64_t begin, int64_t end, int worker) {
    const size_t bytes = AttentionGradScratch::floats(sequences.longest, width) * sizeof(float);
    const AttentionGradScratch s(static_cast<float*>(context.worker_scratch(worker, bytes)), sequences.longest, width);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t root = i % sequences.count, key_head = i / sequences.count;
      if (sequences.parent(root) >= 0) continue;
      sequence_head(s, root, key_head);
      for (int64_t b = root + 1; sequences.parents && b < sequences.count; ++b) {
        if (sequences.parent(b) != root) continue;
        sequence_head(s, b, key_head);
        write_sequence(s, b, key_head);
      }
      write_sequence(s, root, key_head);
    }
  });
  return GRPO_OK;
}
