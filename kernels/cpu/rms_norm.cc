// rms_norm, rms_norm_backward. Compiled once an instruction set (isa/kernels.inc).

static float sum_of_products(const float* a, const float* b, int64_t n) {
  vfloat sum = {};
  for (int64_t i = 0; i < n; i += kWidth) sum = vfma(vload_some(a + i, n - i), vload_some(b + i, n - i), sum);
  return reduce_add(sum);
}

grpo_status rms_norm(grpo_context& context, const grpo_rms_norm_args& args) {
  const int64_t rows = args.in.shape[0], columns = args.in.shape[1];
  if (auto status = check_norm(context, "rmsNorm", args.weight, columns)) return status;
  const int64_t group = args.weight.shape[0];
  const float epsilon = static_cast<float>(args.epsilon);
  float* inverse_rms = static_cast<float*>(args.inverse_rms.data);
  parallel_for(context, rows, row_grain(columns), [&](int64_t begin, int64_t end, int worker) {
    float* scratch = static_cast<float*>(context.worker_scratch(worker, (2 * columns + group) * sizeof(float)));
    const float* weight = read_row(args.weight, 0, 0, group, scratch + 2 * columns);
    for (int64_t row = begin; row < end; ++row) {
      const float* in = read_row(args.in, row, 0, columns, scratch);
      float* out = write_row(args.out, row, 0, scratch + columns);
      for (int64_t g = 0; g < columns; g += group) {
        const float inverse = 1.0f / std::sqrt(sum_of_products(in + g, in + g, group) / group + epsilon);
        if (inverse_rms) inverse_rms[(row * columns + g) / group] = inverse;
        for (int64_t i = 0; i < group; i += kWidth) {
          const int64_t n = group - i;
          vstore_some(out + g + i, n, vload_some(in + g + i, n) * inverse * vload_some(weight + i, n));
        }
      }
      store_row(args.out, row, 0, columns, out);
    }
  });
  return GRPO_OK;
}

// With x^ = in * r, r the inverse rms, and y = grad_out * weight:
//   grad_in = r (y - x^ mean(y x^))        grad_weight = sum over groups of grad_out x^
// The sums of grad_weight are taken over chunks of rows, then over the chunks, both in order.
grpo_status rms_norm_backward(grpo_context& context, const grpo_rms_norm_backward_args& args) {
  const int64_t rows = args.in.shape[0], columns = args.in.shape[1];
  if (auto status = check_norm(context, "rmsNormBackward", args.weight, columns)) return status;
  const int64_t group = args.weight.shape[0];
  const float* inverse_rms = static_cast<const float*>(args.inverse_rms.data);
  float* grad_weight = static_cast<float*>(args.grad_weight.data);
  const bool accumulate = args.accumulate != 0;
  const int64_t chunk_rows = row_grain(columns), chunks = (rows + chunk_rows - 1) / chunk_rows;
  float* partials = grad_weight ? static_cast<float*>(context.shared_scratch(chunks * group * sizeof(float))) : nullptr;

  parallel_for(context, chunks, 1, [&](int64_t first, int64_t last, int worker) {
    float* scratch = static_cast<float*>(context.worker_scratch(worker, (3 * columns + 2 * group) * sizeof(float)));
    const float* weight = read_row(args.weight, 0, 0, group, scratch + 3 * columns);
    float* y = scratch + 3 * columns + group;
    for (int64_t chunk = first; chunk < last; ++chunk) {
      float* partial = partials ? partials + chunk * group : nullptr;
      if (partial) std::fill_n(partial, group, 0.0f);
      for (int64_t row = chunk * chunk_rows; row < std::min(rows, (chunk + 1) * chunk_rows); ++row) {
        const float* in = read_row(args.in, row, 0, columns, scratch);
        const float* grad_out = read_row(args.grad_out, row, 0, columns, scratch + columns);
        float* grad_in = write_row(args.grad_in, row, 0, scratch + 2 * columns);
        if (accumulate) read_row(args.grad_in, row, 0, columns, grad_in);
        for (int64_t g = 0; g < columns; g += group) {
          const float r = inverse_rms[(row * columns + g) / group];
          for (int64_t i = 0; i < group; i += kWidth) {
            const int64_t n = group - i;
            const vfloat go = vload_some(grad_out + g + i, n);
            vstore_some(y + i, n, go * vload_some(weight + i, n));
            if (!partial) continue;
            vstore_some(partial + i, n, vfma(go, vload_some(in + g + i, n) * r, vload_some(partial + i, n)));
          }
          const float mean = sum_of_products(y, in + g, group) * r / group;
          for (int64_t i = 0; i < group; i += kWidth) {
            const int64_t n = group - i;
            const vfloat normalised = vload_some(in + g + i, n) * r;
            const vfloat grad = r * vfma(-normalised, vset(mean), vload_some(y + i, n));
            vstore_some(grad_in + g + i, n, accumulate ? grad + vload_some(grad_in + g + i, n) : grad);
          }
        }
        store_row(args.grad_in, row, 0, columns, grad_in);
      }
    }
  });
  for (int64_t chunk = 0; partials && chunk < chunks; ++chunk) {
    const float* partial = partials + chunk * group;
    for (int64_t i = 0; i < group; i += kWidth) {
      vstore_some(grad_weight + i, group - i,
                  vload_some(grad_weight + i, group - i) + vload_some(partial + i, group - i));
    }
  }
  return GRPO_OK;
}
