// attention, cached_attention: online softmax over the rows that a query sees, a row at a time; attention in tiles on
// tensor cores where they can take it (attention_tiles.cu).

#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

struct PackedRows {
  DeviceSequences sequences;
  __device__ __forceinline__ RowRuns operator()(int64_t row) const { return sequences.seen_by(row); }
};
// A segment outside the cache shows no row, which gives NaN; it has been refused before, unless a graph runs.
struct CachedRows {
  const int32_t* segments;
  int64_t stride, cached;
  __device__ __forceinline__ RowRuns operator()(int64_t row) const {
    const int32_t* s = segments + row * stride;
    const RowRuns runs = {s[0], s[1], s[2], s[3]};
    return inside(runs.first_start, runs.first_length) && inside(runs.second_start, runs.second_length)
               ? runs
               : RowRuns{0, 0, 0, 0};
  }
  __device__ __forceinline__ bool inside(int64_t start, int64_t length) const {
    return start >= 0 && length >= 0 && start + length <= cached;
  }
};

template <int kElements, int N, class Seen>
__global__ void __launch_bounds__(kWarp* kAttentionWarps, 4) attention_kernel(AttentionKernel a, Seen seen) {
  const int64_t index = int64_t{blockIdx.x} * kAttentionWarps + threadIdx.y;
  if (index >= a.rows * a.heads.query_heads) return;
  const int64_t row = index / a.heads.query_heads;
  attention_row<kElements, N>(a, seen(row), row, index % a.heads.query_heads,
                              dynamic_shared<float>() + threadIdx.y * a.heads.width);
}

template <class Seen>
grpo_status run_attention(grpo_context& context, const AttentionKernel& a, const Seen& seen, bool by_four) {
  if (a.rows == 0 || a.heads.query_heads == 0) return GRPO_OK;
  const Launch how = attention_launch(a.rows * a.heads.query_heads, a.heads, 1);
  return with_head_elements(a.heads.width, [&](auto elements) {
    return by_four ? launch(context, attention_kernel<elements(), 4, Seen>, how, a, seen)
                   : launch(context, attention_kernel<elements(), 1, Seen>, how, a, seen);
  });
}

}  // namespace

grpo_status attention(grpo_context& context, const grpo_attention_args& args) {
  if (auto status = check_heads(context, "attention", args.queries, args.keys, args.head_dim)) return status;
  if (auto status = check_head_width(context, "attention", args.head_dim)) return status;
  const int64_t rows = args.queries.shape[0];
  if (auto status = check_packed(context, "attention", args.sequence_offsets, args.parents, rows, args.max_length))
    return status;
  const Heads heads = heads_of(args.queries, args.keys, args.head_dim);
  const AttentionKernel a = {float_rows(args.queries),
                             float_rows(args.keys),
                             float_rows(args.values),
                             float_rows(args.out),
                             float_data(args.log_sum_exp),
                             args.log_sum_exp.row_stride,
                             rows,
                             heads,
                             static_cast<float>(args.scale)};
  if (rows == 0 || heads.query_heads == 0) return GRPO_OK;
  const DeviceSequences sequences = {int_data(args.sequence_offsets), int_data(args.parents),
                                     args.sequence_offsets.shape[0] - 1};
  if (fits_tiles(heads, rows, {&args.queries, &args.keys, &args.values}, {&args.out})) {
    return attention_tiles(context, a, sequences);
  }
  return run_attention(context, a, PackedRows{sequences}, heads_by_four(heads, {&args.keys}));
}

grpo_status cached_attention(grpo_context& context, const grpo_cached_attention_args& args) {
  const char* const name = "cachedAttention";
  if (auto status = check_heads(context, name, args.queries, args.key_cache, args.head_dim)) return status;
  if (auto status = check_head_width(context, name, args.head_dim)) return status;
  const int64_t rows = args.queries.shape[0], stride = args.segments.row_stride;
  if (rows > 0 && !context.captures()) {
    grpo_tensor whole = args.segments;
    whole.shape[1] = stride;
    // The last row may end before its stride does.
    whole.rank = 1;
    whole.shape[0] = (rows - 1) * stride + 4;
    const int32_t* segments = context.host_integers(whole);
    if (!segments) return context.status();
    for (int64_t row = 0; row < rows; ++row) {
      const int32_t* s = segments + row * stride;
      const CacheSegment segment = {s[0], s[1], s[2], s[3]};
      if (auto status = check_segment(context, segment, row, args.key_cache.shape[0], args.max_length)) return status;
    }
  }
  const Heads heads = heads_of(args.queries, args.key_cache, args.head_dim);
  const AttentionKernel a = {float_rows(args.queries),
                             float_rows(args.key_cache),
                             float_rows(args.value_cache),
                             float_rows(args.out),
                             nullptr,
                             0,
                             rows,
                             heads,
                             static_cast<float>(args.scale)};
  return run_attention(context, a, CachedRows{int_data(args.segments), stride, args.key_cache.shape[0]},
                       heads_by_four(heads, {&args.key_cache}));
}

}  // namespace grpo_cuda
