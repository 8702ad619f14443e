// Products of rows with rows, a[m,k] b[n,k]^T: what a linear layer computes from its weight as it is stored. Both
// operands are read in place, so a step of decoding, a few rows against the whole weight, does not pay for packing it.
//
// Every element is a sum over k in kWidth lanes, each one chain of fma, added up in the order of reduce_each: its bits
// do not depend on the other rows and columns, on tiles or on threads. Included once by isa/kernels.inc, after
// blocked_product.h.

constexpr int kDotRows = 4;
constexpr int kDotColumns = kWidth / kDotRows;  // one vector takes the sums of a tile

// Lane r * kDotColumns + c = a row r times b row c. The rows from `rows` on are left out (their lanes are 0).
template <int rows, class A, class B>
static inline vfloat dot_tile_of_rows(const A* a, int64_t a_stride, const B* const* b, int64_t k) {
  vfloat sums[kWidth] = {};
  const int64_t whole = k / kWidth * kWidth;
  for (int64_t i = 0; i < whole; i += kWidth) {
    vfloat y[kDotColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kDotColumns; ++c) y[c] = vload(b[c] + i);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const vfloat x = vload(a + r * a_stride + i);
#pragma GCC unroll 4
      for (int c = 0; c < kDotColumns; ++c) sums[r * kDotColumns + c] = vfma(x, y[c], sums[r * kDotColumns + c]);
    }
  }
  if (whole < k) {
    const int rest = static_cast<int>(k - whole);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      const vfloat x = vload_part(a + r * a_stride + whole, rest);
#pragma GCC unroll 4
      for (int c = 0; c < kDotColumns; ++c) {
        sums[r * kDotColumns + c] = vfma(x, vload_part(b[c] + whole, rest), sums[r * kDotColumns + c]);
      }
    }
  }
  return reduce_each(sums);
}

// out[rows][columns] with `stride` floats from row to row, for few enough rows that a stays in the first-level cache.
template <class A, class B>
static void dot_block(const A* a, int64_t a_stride, const B* b, int64_t b_stride, int64_t rows, int64_t columns,
                      int64_t k, float* out, int64_t stride) {
  for (int64_t c = 0; c < columns; c += kDotColumns) {
    const int64_t width = std::min<int64_t>(kDotColumns, columns - c);
    const B* b_rows[kDotColumns];
    for (int i = 0; i < kDotColumns; ++i) b_rows[i] = b + std::min<int64_t>(c + i, columns - 1) * b_stride;
    for (int64_t r = 0; r < rows; r += kDotRows) {
      const int64_t height = std::min<int64_t>(kDotRows, rows - r);
      const A* a_rows = a + r * a_stride;
      const vfloat sums = height == 4   ? dot_tile_of_rows<4>(a_rows, a_stride, b_rows, k)
                          : height == 3 ? dot_tile_of_rows<3>(a_rows, a_stride, b_rows, k)
                          : height == 2 ? dot_tile_of_rows<2>(a_rows, a_stride, b_rows, k)
                                        : dot_tile_of_rows<1>(a_rows, a_stride, b_rows, k);
      float lanes[kWidth];
      vstore(lanes, sums);
      for (int64_t i = 0; i < height; ++i) {
        float* to = out + (r + i) * stride + c;
        if (width == kDotColumns) {
          std::memcpy(to, lanes + i * kDotColumns, sizeof(float) * kDotColumns);
        } else {
          std::memcpy(to, lanes + i * kDotColumns, sizeof(float) * width);
        }
      }
    }
  }
}

// Tiles of a product: their rows of b stay in the second-level cache while rows of a pass by, a few at a time that stay
// in the first-level cache while those rows of b pass by.
constexpr int64_t kDotBlockRows = 64;
constexpr int64_t kDotBlockColumns = 256;
constexpr int64_t kNearFloats = 4096;

static void dot_product(grpo_context& context, const Product& p, const Destination& out) {
  const int64_t down = ceil_divide(p.m, kDotBlockRows);
  const int64_t across_least = ceil_divide(p.n, kDotBlockColumns);
  const int64_t wanted = context.pool.threads() == 1 ? 1 : ceil_divide(4 * context.pool.threads(), down);
  const int64_t across = std::max(across_least, std::min(wanted, ceil_divide(p.n, 4 * kDotColumns)));
  const int64_t columns_each = round_up(ceil_divide(p.n, across), kDotColumns);
  const int64_t column_tiles = ceil_divide(p.n, columns_each);
  const bool plain = out.dtype == GRPO_F32 && !out.accumulate && !out.bias.data;
  const int64_t near_rows =
      std::clamp<int64_t>(kNearFloats / std::max<int64_t>(p.k, 1) / kDotRows * kDotRows, kDotRows, kDotBlockRows);
  parallel_for(context, down * column_tiles, 1, [&](int64_t begin, int64_t end, int worker) {
    constexpr int64_t scratch_stride = kDotBlockColumns + kWidth;
    float* scratch =
        static_cast<float*>(context.worker_scratch(worker, kDotBlockRows * scratch_stride * sizeof(float)));
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = tile % down * kDotBlockRows, column = tile / down * columns_each;
      const int64_t rows = std::min(kDotBlockRows, p.m - row), columns = std::min(columns_each, p.n - column);
      float* sums = plain ? static_cast<float*>(out.data) + row * out.stride + column : scratch;
      const int64_t stride = plain ? out.stride : scratch_stride;
      with_float_type(p.a, [&](auto* a) {
        with_float_type(p.b, [&](auto* b) {
          for (int64_t r = 0; r < rows; r += near_rows) {
            dot_block(a + (row + r) * p.a.stride, p.a.stride, b + column * p.b.stride, p.b.stride,
                      std::min(near_rows, rows - r), columns, p.k, sums + r * stride, stride);
          }
        });
      });
      if (!plain) finish_rows(out, row, rows, column, columns, sums, stride);
    }
  });
}
