// attention, cached_attention. Compiled once an instruction set (isa/kernels.inc).

constexpr int64_t kQueryChunk = 128;  // query rows of one piece of work; its keys and values are gathered once

// Query rows [row, row + rows) of a sequence.
struct QueryChunk {
  int64_t sequence, row, rows;
};

grpo_status attention(grpo_context& context, const grpo_attention_args& args) {
  HeadLayout layout;
  PackedSequences sequences;
  const int64_t total = args.queries.shape[0];
  if (auto status = head_layout(context, "attention", args.queries, args.keys, args.head_dim, &layout)) return status;
  if (auto status = packed_sequences(context, "attention", args.sequence_offsets, args.parents, total, args.max_length,
                                     &sequences)) {
    return status;
  }
  const int64_t width = layout.width;
  float* log_sum_exp = static_cast<float*>(args.log_sum_exp.data);

  QueryChunk* chunks = static_cast<QueryChunk*>(
      context.shared_scratch((total / kQueryChunk + sequences.count + 1) * sizeof(QueryChunk)));
  int64_t count = 0;
  for (int64_t b = 0; b < sequences.count; ++b) {
    const int64_t end = sequences.start(b) + sequences.own_length(b);
    for (int64_t row = sequences.start(b); row < end; row += kQueryChunk) {
      chunks[count++] = {b, row, std::min(kQueryChunk, end - row)};
    }
  }

  const int64_t longest = sequences.longest, stride = whole_vectors(longest);
  const size_t floats = 2 * longest * width + kRowBlock * (stride + 2 * width);
  parallel_for(context, count * layout.key_heads, 1, [&](int64_t begin, int64_t end, int worker) {
    float* keys = static_cast<float*>(context.worker_scratch(worker, floats * sizeof(float)));
    float* values = keys + longest * width;
    float* scores = values + longest * width;
    float *queries = scores + kRowBlock * stride, *out = queries + kRowBlock * width;
    for (int64_t i = begin; i < end; ++i) {
      const QueryChunk& chunk = chunks[i / layout.key_heads];
      const int64_t b = chunk.sequence, key_head = i % layout.key_heads, last = chunk.row + chunk.rows;
      const int64_t own = last - sequences.start(b), length = sequences.prefix_length(b) + own;
      gather_sequence(args.keys, sequences, b, own, key_head, layout, keys);
      gather_sequence(args.values, sequences, b, own, key_head, layout, values);
      for (int64_t head = key_head * layout.group; head < (key_head + 1) * layout.group; ++head) {
        for (int64_t row = chunk.row; row < last; row += kRowBlock) {
          AttentionBlock block = {std::min<int64_t>(kRowBlock, last - row), {},    {keys, length, nullptr, width},
                                  {values, length, nullptr, width},         width, static_cast<float>(args.scale)};
          for (int64_t r = 0; r < block.rows; ++r) block.limits[r] = length - last + row + r + 1;
          float sums[kRowBlock];
          gather_head(args.queries, row, block.rows, head, layout, queries);
          attend(block, queries, scores, stride, out, sums);
          scatter_head(args.out, row, block.rows, head, layout, out);
          if (!log_sum_exp) continue;
          for (int64_t r = 0; r < block.rows; ++r)
            log_sum_exp[(row + r) * args.log_sum_exp.row_stride + head] = sums[r];
        }
      }
    }
  });
  return GRPO_OK;
}

// One head of the rows that a segment names: in their place in the cache when they are whole vectors of floats, else
// gathered into `buffer`.
static RowRuns cached_rows(const grpo_tensor& cache, const CacheSegment& segment, int64_t head,
                           const HeadLayout& layout, float* buffer) {
  if (cache.dtype == GRPO_F32 && layout.head_dim == layout.width) {
    const float* data = static_cast<const float*>(cache.data) + head * layout.head_dim;
    return {data + segment.prefix_start * cache.row_stride, segment.prefix_length,
            data + segment.own_start * cache.row_stride, cache.row_stride};
  }
  gather_head(cache, segment.prefix_start, segment.prefix_length, head, layout, buffer);
  gather_head(cache, segment.own_start, segment.own_length, head, layout,
              buffer + segment.prefix_length * layout.width);
  return {buffer, int64_t{segment.prefix_length} + segment.own_length, nullptr, layout.width};
}

grpo_status cached_attention(grpo_context& context, const grpo_cached_attention_args& args) {
  HeadLayout layout;
  if (auto status = head_layout(context, "cachedAttention", args.queries, args.key_cache, args.head_dim, &layout)) {
    return status;
  }
  const int64_t rows = args.queries.shape[0], cached = args.key_cache.shape[0], width = layout.width;
  const auto segment_of = [&](int64_t row) {
    CacheSegment segment;
    std::memcpy(&segment, static_cast<const int32_t*>(args.segments.data) + row * args.segments.row_stride,
                sizeof segment);
    return segment;
  };
  int64_t longest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const CacheSegment s = segment_of(row);
    if (auto status = check_segment(context, s, row, cached, args.max_length)) return status;
    longest = std::max(longest, int64_t{s.prefix_length} + s.own_length);
  }

  const int64_t stride = whole_vectors(longest);
  const size_t floats = 2 * longest * width + kRowBlock * (stride + 2 * width);
  parallel_for(context, rows * layout.key_heads, 1, [&](int64_t begin, int64_t end, int worker) {
    float* keys = static_cast<float*>(context.worker_scratch(worker, floats * sizeof(float)));
    float* values = keys + longest * width;
    float* scores = values + longest * width;
    float *queries = scores + kRowBlock * stride, *out = queries + kRowBlock * width;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / layout.key_heads, key_head = i % layout.key_heads;
      const CacheSegment segment = segment_of(row);
      const int64_t length = int64_t{segment.prefix_length} + segment.own_length;
      AttentionBlock block = {0,
                              {length, length, length, length},
                              cached_rows(args.key_cache, segment, key_head, layout, keys),
                              cached_rows(args.value_cache, segment, key_head, layout, values),
                              width,
                              static_cast<float>(args.scale)};
      for (int64_t head = 0; head < layout.group; head += kRowBlock) {
        block.rows = std::min<int64_t>(kRowBlock, layout.group - head);
        const int64_t first = key_head * layout.group + head;
        for (int64_t r = 0; r < block.rows; ++r)
          gather_head(args.queries, row, 1, first + r, layout, queries + r * width);
        float sums[kRowBlock];
        attend(block, queries, scores, stride, out, sums);
        for (int64_t r = 0; r < block.rows; ++r) scatter_head(args.out, row, 1, first + r, layout, out + r * width);
      }
    }
  });
  return GRPO_OK;
}
