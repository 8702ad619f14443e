// column_sum, global_norm. Compiled once an instruction set (isa/kernels.inc).

// Each thread adds up some columns of all rows, in order.
grpo_status column_sum(grpo_context& context, const grpo_column_sum_args& args) {
  const int64_t rows = args.in.shape[0];
  float* out = static_cast<float*>(args.out.data);
  parallel_for(context, args.in.shape[1], 4 * kWidth, [&](int64_t begin, int64_t end, int) {
    for (int64_t column = begin; column < end; column += kPiece) {
      const int64_t n = std::min(kPiece, end - column);
      float sums[kPiece + kWidth] = {}, buffer[kPiece];
      for (int64_t row = 0; row < rows; ++row) {
        const float* in = read_row(args.in, row, column, n, buffer);
        for (int64_t i = 0; i < n; i += kWidth) vstore(sums + i, vload(sums + i) + vload_some(in + i, n - i));
      }
      for (int64_t i = 0; i < n; ++i) out[column + i] += sums[i];
    }
  });
  return GRPO_OK;
}

// Chunks of fixed length, each with one float64 sum a lane, then the chunks in order.
grpo_status global_norm(grpo_context& context, const grpo_global_norm_args& args) {
  constexpr int64_t kChunk = 16384;
  const float* in = static_cast<const float*>(args.in.data);
  const int64_t count = args.in.shape[0], chunks = (count + kChunk - 1) / kChunk;
  double* partials = static_cast<double*>(context.shared_scratch((chunks + 1) * sizeof(double)));
  parallel_for(context, chunks, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t end = std::min(count, (chunk + 1) * kChunk);
      int64_t i = chunk * kChunk;
      vdouble sums[4] = {};
      for (; i + 2 * kWidth <= end; i += 2 * kWidth) {
        for (int j = 0; j < 4; ++j) {
          const auto x = *reinterpret_cast<const vhalf_float_u*>(in + i + j * kDoubles);
          const vdouble wide = __builtin_convertvector(x, vdouble);
          sums[j] += wide * wide;
        }
      }
      double sum = 0.0;
      for (; i < end; ++i) sum += static_cast<double>(in[i]) * in[i];
      const vdouble lanes = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      for (int j = 0; j < kDoubles; ++j) sum += lanes[j];
      partials[chunk] = sum;
    }
  });
  double sum = 0.0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partials[chunk];
  static_cast<float*>(args.norm.data)[0] = static_cast<float>(std::sqrt(sum));
  return GRPO_OK;
}
