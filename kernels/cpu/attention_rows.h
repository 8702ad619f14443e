// The arithmetic of attention rows, the same for sequences in training and for rows that read a cache in decoding, so
// that both give a row the same bits: a score is one chain of fma a lane over the head's elements, exponentials are
// summed a lane over the keys, values are added key by key. Included once by isa/kernels.inc, before attention.cc.

// Rows of `stride` floats in one or two runs: row j is first[j] while j < first_count, then second[j - first_count].
struct RowRuns {
  const float* first;
  int64_t first_count;
  const float* second;
  int64_t stride;

  const float* row(int64_t j) const {
    return j < first_count ? first + j * stride : second + (j - first_count) * stride;
  }
};

static int64_t whole_vectors(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

// The rows [j, j + kWidth) of which those before `count` exist; the others repeat the last.
struct RowTile {
  const float* row[kWidth];

  RowTile(const RowRuns& rows, int64_t j, int64_t count) {
    for (int t = 0; t < kWidth; ++t) row[t] = rows.row(std::min(j + t, count - 1));
  }
};

// Dot products of x with the rows of a tile; `width` floats, a multiple of kWidth.
static inline vfloat dot_tile(const float* x, const RowTile& tile, int64_t width) {
  vfloat sums[kWidth];
#pragma GCC unroll 4
  for (int t = 0; t < kWidth; t += 4) {
    const float *a = tile.row[t], *b = tile.row[t + 1], *c = tile.row[t + 2], *d = tile.row[t + 3];
    vfloat sum_a = {}, sum_b = {}, sum_c = {}, sum_d = {};
    for (int64_t i = 0; i < width; i += kWidth) {
      const vfloat y = vload(x + i);
      sum_a = vfma(y, vload(a + i), sum_a);
      sum_b = vfma(y, vload(b + i), sum_b);
      sum_c = vfma(y, vload(c + i), sum_c);
      sum_d = vfma(y, vload(d + i), sum_d);
    }
    sums[t] = sum_a;
    sums[t + 1] = sum_b;
    sums[t + 2] = sum_c;
    sums[t + 3] = sum_d;
  }
  return reduce_each(sums);
}

template <int rows, int vectors>
static inline void add_rows_block(float* out, int64_t out_stride, const float* weights, int64_t weight_stride,
                                  const float* in, int64_t in_stride, int64_t count) {
  vfloat sums[rows][vectors];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[r][v] = vload(out + r * out_stride + v * kWidth);
  }
  for (int64_t j = 0; j < count; ++j, in += in_stride) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const vfloat weight = vset(weights[r * weight_stride + j]);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[r][v] = vfma(weight, vload(in + v * kWidth), sums[r][v]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) vstore(out + r * out_stride + v * kWidth, sums[r][v]);
  }
}

constexpr int kRowBlock = 4;  // rows whose sums are in registers together

template <int rows>
static void add_rows(float* out, int64_t out_stride, const float* weights, int64_t weight_stride, const float* in,
                     int64_t in_stride, int64_t count, int64_t width) {
#if defined(GRPO_ISA_AVX512) || defined(__aarch64__)
  constexpr int kVectors = 4;
#else
  constexpr int kVectors = 2;
#endif
  int64_t i = 0;
  for (; i + kVectors * kWidth <= width; i += kVectors * kWidth) {
    add_rows_block<rows, kVectors>(out + i, out_stride, weights, weight_stride, in + i, in_stride, count);
  }
  for (; i < width; i += kWidth) {
    add_rows_block<rows, 1>(out + i, out_stride, weights, weight_stride, in + i, in_stride, count);
  }
}

// out[r] += sum over j in [begin, end) of weights[r][j] * in.row(j), for up to kRowBlock rows.
static void add_weighted_rows(int64_t rows, float* out, int64_t out_stride, const float* weights, int64_t weight_stride,
                              const RowRuns& in, int64_t begin, int64_t end, int64_t width) {
  while (begin < end) {
    const int64_t stop = begin < in.first_count ? std::min(end, in.first_count) : end;
    const auto add = [&](auto* kernel) {
      kernel(out, out_stride, weights + begin, weight_stride, in.row(begin), in.stride, stop - begin, width);
    };
    if (rows == 1) add(&add_rows<1>);
    if (rows == 2) add(&add_rows<2>);
    if (rows == 3) add(&add_rows<3>);
    if (rows == 4) add(&add_rows<4>);
    begin = stop;
  }
}

// Some query rows over the same keys: row r sees the keys before limits[r], at least one; limits do not fall.
struct AttentionBlock {
  int64_t rows;  // 1 to kRowBlock
  int64_t limits[kRowBlock];
  RowRuns keys, values;
  int64_t width;  // floats of a head, a multiple of kWidth; elements past the head's length are 0
  float scale;
};

// out[r] = softmax(scale * queries[r] keys) values, for rows of `width` floats; `scores` has room for kRowBlock rows of
// `stride` floats, whole vectors. log_sum_exp[r] is that of the scores.
static void attend(const AttentionBlock& block, const float* queries, float* scores, int64_t stride, float* out,
                   float* log_sum_exp) {
  const int64_t longest = block.limits[block.rows - 1], shortest = block.limits[0];
  vfloat most[kRowBlock];
  for (int64_t r = 0; r < block.rows; ++r) most[r] = vset(-__builtin_inff());
  for (int64_t j = 0; j < longest; j += kWidth) {
    const RowTile tile(block.keys, j, longest);
    for (int64_t r = 0; r < block.rows; ++r) {
      if (j >= block.limits[r]) continue;
      const vfloat score = dot_tile(queries + r * block.width, tile, block.width) * block.scale;
      const vint seen = lane_numbers() < vset_int(static_cast<int32_t>(std::min<int64_t>(block.limits[r] - j, kWidth)));
      const vfloat masked = vselect(seen, score, vset(-__builtin_inff()));
      vstore(scores + r * stride + j, masked);
      most[r] = vmax(most[r], masked);
    }
  }
  float inverse_sums[kRowBlock];
  for (int64_t r = 0; r < block.rows; ++r) {
    const float max = reduce_max(most[r]);
    float* row = scores + r * stride;
    vfloat sums = {};
    for (int64_t j = 0; j < block.limits[r]; j += kWidth) {
      const vfloat weight = vexp_nonpositive(vload(row + j) - max);
      vstore(row + j, weight);
      sums += weight;
    }
    const float sum = reduce_add(sums);
    inverse_sums[r] = 1.0f / sum;
    log_sum_exp[r] = max + std::log(sum);
  }
  std::fill_n(out, block.rows * block.width, 0.0f);
  add_weighted_rows(block.rows, out, block.width, scores, stride, block.values, 0, shortest, block.width);
  for (int64_t r = 0; r < block.rows; ++r) {
    add_weighted_rows(1, out + r * block.width, block.width, scores + r * stride, stride, block.values, shortest,
                      block.limits[r], block.width);
    for (int64_t i = 0; i < block.width; i += kWidth) {
      float* x = out + r * block.width + i;
      vstore(x, vload(x) * inverse_sums[r]);
    }
  }
}

// ---- heads of tensors -----------------------------------------------------------------------------------------------

// How the columns of queries and keys are cut into heads.
struct HeadLayout {
  int64_t head_dim, heads, key_heads, group;  // `group` query heads read one key head
  int64_t width;                              // head_dim rounded up to whole vectors
};

static grpo_status head_layout(grpo_context& context, const char* operation, const grpo_tensor& queries,
                               const grpo_tensor& keys, double head_dim, HeadLayout* layout) {
  if (auto status = check_heads(context, operation, queries, keys, head_dim)) return status;
  const int64_t d = static_cast<int64_t>(head_dim), q = queries.shape[1], k = keys.shape[1];
  *layout = {d, q / d, k / d, k == 0 ? 1 : q / k, whole_vectors(d)};
  return GRPO_OK;
}

// Copies one head of `rows` rows to floats, padded with zeros to layout.width.
static void gather_head(const grpo_tensor& t, int64_t row, int64_t rows, int64_t head, const HeadLayout& layout,
                        float* to) {
  with_float_type(t, [&](auto* data) {
    pack(to, layout.width, data + row * t.row_stride + head * layout.head_dim, t.row_stride, rows, layout.head_dim);
  });
}

static void scatter_head(const grpo_tensor& t, int64_t row, int64_t rows, int64_t head, const HeadLayout& layout,
                         const float* from) {
  with_float_type(t, [&](auto* data) {
    for (int64_t r = 0; r < rows; ++r) {
      convert_row(data + (row + r) * t.row_stride + head * layout.head_dim, from + r * layout.width, layout.head_dim);
    }
  });
}

static grpo_status packed_sequences(grpo_context& context, const char* operation, const grpo_tensor& offsets,
                                    const grpo_tensor& parents, int64_t rows, double max_length,
                                    PackedSequences* sequences) {
  return check_sequences(context, operation, static_cast<const int32_t*>(offsets.data),
                         static_cast<const int32_t*>(parents.data), offsets.shape[0] - 1, rows, max_length, sequences);
}

// Copies one head of a sequence to floats: its parent's rows, then the first `own_rows` of its own.
static void gather_sequence(const grpo_tensor& t, const PackedSequences& sequences, int64_t b, int64_t own_rows,
                            int64_t head, const HeadLayout& layout, float* to) {
  const int64_t prefix = sequences.prefix_length(b);
  if (prefix > 0) gather_head(t, sequences.start(sequences.parent(b)), prefix, head, layout, to);
  gather_head(t, sequences.start(b), own_rows, head, layout, to + prefix * layout.width);
}
