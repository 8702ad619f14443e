// Rows of tensors as floats, whatever their dtype, and loops over them. Kernels of the decoder compute on float rows
// only; a 16-bit row is converted into a buffer in the first-level cache and back, which costs less than a second copy
// of each kernel. Included once by isa/kernels.inc, after memory.cc.

// The first min(n, kWidth) elements, 0 beyond; and their counterpart.
SIMD vfloat vload_some(const float* p, int64_t n) {
  return n >= kWidth ? vload(p) : vload_part(p, static_cast<int>(n));
}
SIMD void vstore_some(float* p, int64_t n, vfloat x) {
  if (n >= kWidth) {
    vstore(p, x);
  } else {
    vstore_part(p, static_cast<int>(n), x);
  }
}

// n elements of a row from `column` on: where they are, or converted into `buffer`.
static const float* read_row(const grpo_tensor& t, int64_t row, int64_t column, int64_t n, float* buffer) {
  return with_float_type(t, [&](auto* data) -> const float* {
    auto* from = data + row * t.row_stride + column;
    if constexpr (std::is_same_v<decltype(from), float*>) {
      return from;
    } else {
      convert_row(buffer, from, n);
      return buffer;
    }
  });
}

// Where to write n elements of a row as floats: in their place, or in `buffer`, from where store_row stores them.
static float* write_row(const grpo_tensor& t, int64_t row, int64_t column, float* buffer) {
  return t.dtype == GRPO_F32 ? static_cast<float*>(t.data) + row * t.row_stride + column : buffer;
}
static void store_row(const grpo_tensor& t, int64_t row, int64_t column, int64_t n, const float* written) {
  if (t.dtype == GRPO_F32) return;
  with_float_type(t, [&](auto* data) { convert_row(data + row * t.row_stride + column, written, n); });
}

constexpr int64_t kPiece =
    1024;  // elements of an elementwise loop at a time; a few such buffers fit the first-level cache

// body(row, column, n) for pieces of n <= kPiece elements of each row, on all threads.
template <class F>
static inline void parallel_pieces(grpo_context& context, int64_t rows, int64_t columns, const F& body) {
  const int64_t across = (columns + kPiece - 1) / kPiece;
  const int64_t grain = row_grain(std::min(columns, kPiece));
  parallel_for(context, rows * across, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i % across * kPiece;
      body(i / across, column, std::min(kPiece, columns - column));
    }
  });
}
