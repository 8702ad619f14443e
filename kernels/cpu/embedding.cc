// embedding, embedding_backward. Compiled once an instruction set (isa/kernels.inc).

grpo_status embedding(grpo_context& context, const grpo_embedding_args& args) {
  if (auto status = check_indices(context, "embedding: ids", args.ids, args.table.shape[0])) return status;
  const int32_t* ids = static_cast<const int32_t*>(args.ids.data);
  const int64_t columns = args.out.shape[1];
  parallel_for(context, args.out.shape[0], row_grain(columns), [&](int64_t begin, int64_t end, int) {
    with_float_type(args.table, [&](auto* table) {
      with_float_type(args.out, [&](auto* out) {
        for (int64_t i = begin; i < end; ++i) {
          convert_row(out + i * args.out.row_stride, table + ids[i] * args.table.row_stride, columns);
        }
      });
    });
  });
  return GRPO_OK;
}

// Each thread adds up some columns of all rows: the order of the sums is that of the rows.
grpo_status embedding_backward(grpo_context& context, const grpo_embedding_backward_args& args) {
  if (auto status = check_indices(context, "embeddingBackward: ids", args.ids, args.grad_table.shape[0])) return status;
  const int32_t* ids = static_cast<const int32_t*>(args.ids.data);
  float* table = static_cast<float*>(args.grad_table.data);
  const int64_t rows = args.grad_out.shape[0];
  parallel_for(context, args.grad_out.shape[1], 4 * kWidth, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = 0; row < rows; ++row) {
      float* to = table + ids[row] * args.grad_table.row_stride;
      for (int64_t column = begin; column < end; column += kPiece) {
        const int64_t n = std::min(kPiece, end - column);
        float buffer[kPiece];
        const float* from = read_row(args.grad_out, row, column, n, buffer);
        for (int64_t i = 0; i < n; i += kWidth) {
          vstore_some(to + column + i, n - i, vload_some(to + column + i, n - i) + vload_some(from + i, n - i));
        }
      }
    }
  });
  return GRPO_OK;
}
