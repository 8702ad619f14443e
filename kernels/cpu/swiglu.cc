// swiglu, swiglu_backward. Compiled once an instruction set (isa/kernels.inc).

SIMD vfloat vsigmoid(vfloat x) { return 1.0f / (1.0f + vexp(-x)); }

grpo_status swiglu(grpo_context& context, const grpo_swiglu_args& args) {
  parallel_pieces(context, row_count(args.out), column_count(args.out), [&](int64_t row, int64_t column, int64_t n) {
    float gate_buffer[kPiece], up_buffer[kPiece], out_buffer[kPiece];
    const float* gate = read_row(args.gate, row, column, n, gate_buffer);
    const float* up = read_row(args.up, row, column, n, up_buffer);
    float* out = write_row(args.out, row, column, out_buffer);
    for (int64_t i = 0; i < n; i += kWidth) {
      const vfloat g = vload_some(gate + i, n - i);
      vstore_some(out + i, n - i, g * vsigmoid(g) * vload_some(up + i, n - i));
    }
    store_row(args.out, row, column, n, out);
  });
  return GRPO_OK;
}

// d silu(g) / d g = s (1 + g (1 - s)), s = sigmoid(g).
grpo_status swiglu_backward(grpo_context& context, const grpo_swiglu_backward_args& args) {
  const int64_t rows = row_count(args.grad_out), columns = column_count(args.grad_out);
  parallel_pieces(context, rows, columns, [&](int64_t row, int64_t column, int64_t n) {
    float buffers[5][kPiece];
    const float* gate = read_row(args.gate, row, column, n, buffers[0]);
    const float* up = read_row(args.up, row, column, n, buffers[1]);
    const float* grad_out = read_row(args.grad_out, row, column, n, buffers[2]);
    float* grad_gate = write_row(args.grad_gate, row, column, buffers[3]);
    float* grad_up = write_row(args.grad_up, row, column, buffers[4]);
    for (int64_t i = 0; i < n; i += kWidth) {
      const vfloat g = vload_some(gate + i, n - i), go = vload_some(grad_out + i, n - i);
      const vfloat s = vsigmoid(g), u = vload_some(up + i, n - i);
      vstore_some(grad_gate + i, n - i, go * u * s * vfma(g, 1.0f - s, vset(1.0f)));
      vstore_some(grad_up + i, n - i, go * (g * s));
    }
    store_row(args.grad_gate, row, column, n, grad_gate);
    store_row(args.grad_up, row, column, n, grad_up);
  });
  return GRPO_OK;
}
