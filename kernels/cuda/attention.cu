// attention: online softmax over the rows that a query sees, a row at a time; in tiles on tensor cores where they can
// take it (attention_tiles.cu).

#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

template <int kElements, int N>
__global__ void __launch_bounds__(kWarp* kAttentionWarps, 4)
    attention_kernel(AttentionKernel a, DeviceSequences sequences) {
  const int64_t index = int64_t{blockIdx.x} * kAttentionWarps + threadIdx.y;
  if (index >= a.rows * a.heads.query_heads) return;
  const int64_t row = index / a.heads.query_heads;
  attention_row<kElements, N>(a, sequences.seen_by(row), row, index % a.heads.query_heads,
                              dynamic_shared<float>() + threadIdx.y * a.heads.width);
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
  // Tiles look for the largest score before they scale it.
  if (a.scale > 0.0f && fits_tiles(heads, rows, {&args.queries, &args.keys, &args.values}, {&args.out})) {
    return attention_tiles(context, a, sequences);
  }
  const Launch how = attention_launch(rows * heads.query_heads, heads, 1);
  const bool by_four = heads_by_four(heads, {&args.keys});
  return with_head_elements(heads.width, [&](auto elements) {
    return by_four ? launch(context, attention_kernel<elements(), 4>, how, a, sequences)
                   : launch(context, attention_kernel<elements(), 1>, how, a, sequences);
  });
}

}  // namespace grpo_cuda
