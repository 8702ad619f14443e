// add. Compiled once an instruction set (isa/kernels.inc).

grpo_status add(grpo_context& context, const grpo_add_args& args) {
  const vfloat alpha = vset(static_cast<float>(args.alpha)), beta = vset(static_cast<float>(args.beta));
  parallel_pieces(context, row_count(args.out), column_count(args.out), [&](int64_t row, int64_t column, int64_t n) {
    float a_buffer[kPiece], b_buffer[kPiece], out_buffer[kPiece];
    const float* a = read_row(args.a, row, column, n, a_buffer);
    const float* b = read_row(args.b, row, column, n, b_buffer);
    float* out = write_row(args.out, row, column, out_buffer);
    for (int64_t i = 0; i < n; i += kWidth) {
      vstore_some(out + i, n - i, vfma(alpha, vload_some(a + i, n - i), beta * vload_some(b + i, n - i)));
    }
    store_row(args.out, row, column, n, out);
  });
  return GRPO_OK;
}
