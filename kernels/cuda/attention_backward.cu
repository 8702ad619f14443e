// attention_backward, a row at a time; in tiles on tensor cores where they can take it (attention_backward_tiles.cu).

#include "attention_backward_rows.h"
#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

template <int kElements, int N>
__global__ void __launch_bounds__(kWarp* kAttentionWarps, 4) grad_queries_kernel(BackwardKernel a) {
  const int64_t index = int64_t{blockIdx.x} * kAttentionWarps + threadIdx.y;
  if (index >= a.rows * a.heads.query_heads) return;
  grad_queries_row<kElements, N>(a, index / a.heads.query_heads, index % a.heads.query_heads,
                                 dynamic_shared<float>() + 2 * threadIdx.y * a.heads.width);
}

template <int kElements, int N>
__global__ void __launch_bounds__(kWarp* kAttentionWarps, 4) grad_keys_kernel(BackwardKernel a) {
  const int64_t key_heads = a.heads.query_heads / a.heads.group;
  const int64_t index = int64_t{blockIdx.x} * kAttentionWarps + threadIdx.y;
  if (index >= a.rows * key_heads) return;
  grad_keys_row<kElements, N>(a, index / key_heads, index % key_heads,
                              dynamic_shared<float>() + 2 * threadIdx.y * a.heads.width);
}

}  // namespace

grpo_status attention_backward(grpo_context& context, const grpo_attention_backward_args& args) {
  const char* const name = "attentionBackward";
  if (auto status = check_heads(context, name, args.queries, args.keys, args.head_dim)) return status;
  if (auto status = check_head_width(context, name, args.head_dim)) return status;
  const int64_t rows = args.queries.shape[0];
  if (auto status = check_packed(context, name, args.sequence_offsets, args.parents, rows, args.max_length))
    return status;
  const Heads heads = heads_of(args.queries, args.keys, args.head_dim);
  if (rows == 0 || heads.query_heads == 0) return GRPO_OK;
  auto* delta = static_cast<float*>(context.scratch(rows * heads.query_heads * sizeof(float)));
  if (!delta) return context.status();
  const BackwardKernel a = {
      float_rows(args.queries),
      float_rows(args.keys),
      float_rows(args.values),
      float_rows(args.out),
      float_rows(args.grad_out),
      float_rows(args.grad_queries),
      float_rows(args.grad_keys),
      float_rows(args.grad_values),
      float_data(args.log_sum_exp),
      args.log_sum_exp.row_stride,
      delta,
      rows,
      heads,
      static_cast<float>(args.scale),
      {int_data(args.sequence_offsets), int_data(args.parents), args.sequence_offsets.shape[0] - 1}};
  if (fits_tiles(heads, rows, {&args.queries, &args.keys, &args.values, &args.grad_out},
                 {&args.out, &args.grad_queries, &args.grad_keys, &args.grad_values})) {
    return attention_backward_tiles(context, a);
  }
  const bool by_four = heads_by_four(heads, {&args.queries, &args.keys, &args.values, &args.grad_out});
  return with_head_elements(heads.width, [&](auto elements) {
    const Launch queries = attention_launch(rows * heads.query_heads, heads, 2);
    const Launch keys = attention_launch(rows * (heads.query_heads / heads.group), heads, 2);
    const auto run = [&](auto queries_kernel, auto keys_kernel) {
      if (auto status = launch(context, queries_kernel, queries, a)) return status;
      return launch(context, keys_kernel, keys, a);
    };
    return by_four ? run(grad_queries_kernel<elements(), 4>, grad_keys_kernel<elements(), 4>)
                   : run(grad_queries_kernel<elements(), 1>, grad_keys_kernel<elements(), 1>);
  });
}

}  // namespace grpo_cuda
