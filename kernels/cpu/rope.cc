// rope. Compiled once an instruction set (isa/kernels.inc).

using vlong = int64_t __attribute__((vector_size(4 * kWidth)));

// cosine and sine of kDoubles angles, to float accuracy for angles up to a million: reduction to +-pi/4 in float64,
// then Taylor polynomials.
SIMD void sine_cosine(vdouble angle, vdouble* cosine, vdouble* sine) {
  const vdouble shift =
      6755399441055744.0 - vdouble{};  // 1.5 * 2^52: adding it rounds to an integer kept in the low bits
  const vdouble shifted = angle * 0.63661977236758134308 + shift;
  const vdouble turns = shifted - shift;
  const vdouble r = (angle - turns * 1.57079632673412561417) - turns * 6.07710050650619224932e-11;
  const vdouble s = r * r;
  const vdouble sin_r =
      r + r * s * (-1.0 / 6 + s * (1.0 / 120 + s * (-1.0 / 5040 + s * (1.0 / 362880 - s * (1.0 / 39916800)))));
  const vdouble cos_r =
      1.0 + s * (-1.0 / 2 + s * (1.0 / 24 + s * (-1.0 / 720 + s * (1.0 / 40320 - s * (1.0 / 3628800)))));
  const vlong quadrant = (vlong)shifted;
  const vdouble sin_abs = (quadrant & 1) != 0 ? cos_r : sin_r;
  const vdouble cos_abs = (quadrant & 1) != 0 ? sin_r : cos_r;
  *sine = (quadrant & 2) != 0 ? -sin_abs : sin_abs;
  *cosine = ((quadrant + 1) & 2) != 0 ? -cos_abs : cos_abs;
}

// Angles are float32 products, as transformers has them. `cosines` and `sines` have room for whole vectors.
static void rotation(int32_t position, const float* inverse_frequencies, int64_t n, bool backward, float* cosines,
                     float* sines) {
  for (int64_t i = 0; i < n; i += kDoubles) {
    vdouble angle = {}, cosine, sine;
    for (int j = 0; j < std::min<int64_t>(kDoubles, n - i); ++j) {
      angle[j] = static_cast<float>(position) * inverse_frequencies[i + j];
    }
    sine_cosine(angle, &cosine, &sine);
    for (int j = 0; j < kDoubles; ++j) {
      cosines[i + j] = static_cast<float>(cosine[j]);
      sines[i + j] = static_cast<float>(backward ? -sine[j] : sine[j]);
    }
  }
}

grpo_status rope(grpo_context& context, const grpo_rope_args& args) {
  if (auto status = check_rope(context, args)) return status;
  const int64_t rows = args.in.shape[0], columns = args.in.shape[1];
  const int64_t head_dim = static_cast<int64_t>(args.head_dim), half = args.inverse_frequencies.shape[0];
  const int32_t* positions = static_cast<const int32_t*>(args.positions.data);
  const float* frequencies = static_cast<const float*>(args.inverse_frequencies.data);
  const bool backward = args.backward != 0;

  // Many rows have few positions: those of several sequences, each from 0 on. Then a position's rotation is computed
  // once.
  const auto [least, most] = std::minmax_element(positions, positions + rows);
  const int64_t stride = half + kWidth;
  const int64_t tabled = rows > 0 && *least >= 0 && 2 * (int64_t{*most} + 1) <= rows ? int64_t{*most} + 1 : 0;
  float* table = static_cast<float*>(context.shared_scratch(2 * tabled * stride * sizeof(float)));
  parallel_for(context, tabled, row_grain(half), [&](int64_t begin, int64_t end, int) {
    for (int64_t position = begin; position < end; ++position) {
      float* cosines = table + 2 * position * stride;
      rotation(static_cast<int32_t>(position), frequencies, half, backward, cosines, cosines + stride);
    }
  });

  parallel_for(context, rows, row_grain(columns), [&](int64_t begin, int64_t end, int worker) {
    float* scratch = static_cast<float*>(context.worker_scratch(worker, (2 * columns + 2 * stride) * sizeof(float)));
    float* own = scratch + 2 * columns;
    for (int64_t row = begin; row < end; ++row) {
      // Rows that decode together are often at one position.
      if (!tabled && (row == begin || positions[row] != positions[row - 1])) {
        rotation(positions[row], frequencies, half, backward, own, own + stride);
      }
      const float* cosines = tabled ? table + 2 * positions[row] * stride : own;
      const float* sines = cosines + stride;
      const float* in = read_row(args.in, row, 0, columns, scratch);
      float* out = write_row(args.out, row, 0, scratch + columns);
      for (int64_t head = 0; head < columns; head += head_dim) {
        for (int64_t i = 0; i < half; i += kWidth) {
          const int64_t n = half - i;
          const vfloat cosine = vload_some(cosines + i, n), sine = vload_some(sines + i, n);
          const vfloat x = vload_some(in + head + i, n), y = vload_some(in + head + half + i, n);
          vstore_some(out + head + i, n, vfma(x, cosine, -(y * sine)));
          vstore_some(out + head + half + i, n, vfma(y, cosine, x * sine));
        }
      }
      store_row(args.out, row, 0, columns, out);
    }
  });
  return GRPO_OK;
}
