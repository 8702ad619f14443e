// The built-in matrix product: register tiles of kTileRows x kTileColumns over packed operands.
//
// Every element of the result is one chain of fma over k in ascending order, begun at 0. Which rows and columns share a
// register tile, a cache tile or a thread changes no bit of it. Included once by isa/kernels.inc, before matmul.cc.

#if defined(GRPO_ISA_AVX512)
constexpr int kTileRows = 14;  // 28 of 32 registers hold sums
#elif defined(__aarch64__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;  // 12 of 16 registers
#endif
constexpr int kTileColumns = 2 * kWidth;
constexpr int64_t kDepth = 256;                // k of one pass: a panel of b stays in the first-level cache
constexpr int64_t kDepthStride = kDepth + 16;  // rows of packed a; not a power of two, which would crowd few cache sets
// Largest cache tile. Sums and packed a of one tile fit the second-level cache.
constexpr int64_t kCacheRows = 192 / kTileRows * kTileRows;
constexpr int64_t kCacheColumns = 256;

struct Product {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  Operand a, b;
};

// Where a product goes: out = (accumulate ? out : 0) + sums + bias. `bias.data` may be nullptr.
struct Destination {
  void* data;
  int64_t stride;
  int32_t dtype;
  Operand bias;
  bool accumulate;
};

template <class F>
static inline auto with_float_type(const Operand& x, const F& body) {
  switch (x.dtype) {
    case GRPO_BF16:
      return body(static_cast<const bf16*>(x.data));
    case GRPO_F16:
      return body(static_cast<const f16*>(x.data));
    default:
      return body(static_cast<const float*>(x.data));
  }
}

// ---- packing --------------------------------------------------------------------------------------------------------

// Lanes whose number lacks bit `half` come from a, the others from b: of each pair of lanes that differ in that bit the
// lower one, or with `upper` the upper one.
template <int half, bool upper, size_t... lane>
SIMD vfloat interleave(vfloat a, vfloat b, std::index_sequence<lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((lane & half ? lane - half + kWidth : lane) + (upper ? half : 0))...);
#else
  return __builtin_shuffle(
      a, b, vint{static_cast<int32_t>((lane & half ? lane - half + kWidth : lane) + (upper ? half : 0))...});
#endif
}
template <int half>
SIMD vfloat interleave_low(vfloat a, vfloat b) {
  return interleave<half, false>(a, b, std::make_index_sequence<kWidth>());
}
template <int half>
SIMD vfloat interleave_high(vfloat a, vfloat b) {
  return interleave<half, true>(a, b, std::make_index_sequence<kWidth>());
}

template <int half>
SIMD void transpose_step(vfloat* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i) {
    if (i & half) continue;
    const vfloat a = rows[i], b = rows[i + half];
    rows[i] = interleave_low<half>(a, b);
    rows[i + half] = interleave_high<half>(a, b);
  }
  if constexpr (half > 1) transpose_step<half / 2>(rows);
}

// Lane t = sum over the lanes of x[t].
template <int half = kWidth / 2>
SIMD vfloat reduce_each(vfloat* x) {
#pragma GCC unroll 16
  for (int i = 0; i < half; ++i) {
    x[i] = interleave_low<half>(x[i], x[i + half]) + interleave_high<half>(x[i], x[i + half]);
  }
  if constexpr (half > 1) return reduce_each<half / 2>(x);
  return x[0];
}

// to[r][c] = from[r][c]; columns up to a multiple of kWidth are filled with zeros.
template <class T>
static void pack(float* to, int64_t to_stride, const T* from, int64_t from_stride, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r, to += to_stride, from += from_stride) {
    int64_t c = 0;
    for (; c + kWidth <= columns; c += kWidth) vstore(to + c, vload(from + c));
    if (c < columns) vstore(to + c, vload_part(from + c, static_cast<int>(columns - c)));
  }
}

// to[c][r] = from[r][c]; rows of `from` up to a multiple of kWidth count as zeros. Not inlined: the block needs every
// register.
template <class T>
__attribute__((noinline)) static void pack_transposed(float* to, int64_t to_stride, const T* from, int64_t from_stride,
                                                      int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += kWidth) {
    const int64_t height = std::min<int64_t>(rows - r, kWidth);
    for (int64_t c = 0; c < columns; c += kWidth) {
      const int64_t width = std::min<int64_t>(columns - c, kWidth);
      const T* block = from + r * from_stride + c;
      vfloat x[kWidth];
      if (height == kWidth && width == kWidth) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) x[i] = vload(block + i * from_stride);
      } else {
        for (int i = 0; i < kWidth; ++i) {
          x[i] = i < height ? vload_part(block + i * from_stride, static_cast<int>(width)) : vfloat{};
        }
      }
      transpose_step<kWidth / 2>(x);
      float* block_to = to + c * to_stride + r;
      if (width == kWidth) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) vstore(block_to + i * to_stride, x[i]);
      } else {
        for (int i = 0; i < width; ++i) vstore(block_to + i * to_stride, x[i]);
      }
    }
  }
}

// ---- one tile -------------------------------------------------------------------------------------------------------

// sums[r][0..kTileColumns) += a[r][0..depth) b[0..depth)[...], begun at 0 with `first`.
template <int rows>
static inline void register_tile(int64_t depth, const float* a, const float* b, float* sums, int64_t stride,
                                 bool first) {
  vfloat left[rows], right[rows];
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    left[r] = first ? vfloat{} : vload(sums + r * stride);
    right[r] = first ? vfloat{} : vload(sums + r * stride + kWidth);
  }
  for (int64_t i = 0; i < depth; ++i) {
    const vfloat b_left = vload(b + i * kTileColumns), b_right = vload(b + i * kTileColumns + kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r) {
      const vfloat x = vset(a[r * kDepthStride + i]);
      left[r] = vfma(x, b_left, left[r]);
      right[r] = vfma(x, b_right, right[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r) {
    vstore(sums + r * stride, left[r]);
    vstore(sums + r * stride + kWidth, right[r]);
  }
}

// register_tile for 1 to kTileRows rows.
template <int rows = kTileRows>
static inline void any_register_tile(int64_t count, int64_t depth, const float* a, const float* b, float* sums,
                                     int64_t stride, bool first) {
  if constexpr (rows > 1) {
    if (count < rows) return any_register_tile<rows - 1>(count, depth, a, b, sums, stride, first);
  }
  register_tile<rows>(depth, a, b, sums, stride, first);
}

// The scratch space of one worker: sums of a cache tile, packed rows of a, one packed panel of b.
constexpr int64_t kSumsFloats = kCacheRows * kCacheColumns;
constexpr int64_t kPackedAFloats = kCacheRows * kDepthStride;
constexpr int64_t kPanelFloats = kDepth * kTileColumns;
constexpr size_t kProductScratchBytes = (kSumsFloats + kPackedAFloats + kPanelFloats) * sizeof(float);

// sums[rows][kCacheColumns] = the product's rows [row, row + rows) and columns [column, column + columns).
static void cache_tile(const Product& p, int64_t row, int64_t rows, int64_t column, int64_t columns, float* sums) {
  float* packed_a = sums + kSumsFloats;
  float* panel = packed_a + kPackedAFloats;
  if (p.k == 0) std::fill_n(sums, rows * kCacheColumns, 0.0f);
  for (int64_t begin = 0; begin < p.k; begin += kDepth) {
    const int64_t depth = std::min(kDepth, p.k - begin);
    with_float_type(p.a, [&](auto* a) {
      if (p.transpose_a) {
        pack_transposed(packed_a, kDepthStride, a + begin * p.a.stride + row, p.a.stride, depth, rows);
      } else {
        pack(packed_a, kDepthStride, a + row * p.a.stride + begin, p.a.stride, rows, depth);
      }
    });
    for (int64_t c = 0; c < columns; c += kTileColumns) {
      const int64_t width = std::min<int64_t>(columns - c, kTileColumns);
      if (width <= kWidth) std::fill_n(panel, depth * kTileColumns, 0.0f);  // packing pads to one vector
      with_float_type(p.b, [&](auto* b) {
        if (p.transpose_b) {
          pack_transposed(panel, kTileColumns, b + (column + c) * p.b.stride + begin, p.b.stride, width, depth);
        } else {
          pack(panel, kTileColumns, b + begin * p.b.stride + column + c, p.b.stride, depth, width);
        }
      });
      for (int64_t r = 0; r < rows; r += kTileRows) {
        any_register_tile(rows - r, depth, packed_a + r * kDepthStride, panel, sums + r * kCacheColumns + c,
                          kCacheColumns, begin == 0);
      }
    }
  }
}

// ---- the product ----------------------------------------------------------------------------------------------------

// out[0..n) = (accumulate ? out : 0) + sums + bias.
template <class T, class Bias>
static inline void finish_row(T* out, const float* sums, const Bias* bias, bool accumulate, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int rest = static_cast<int>(std::min<int64_t>(n - i, kWidth));
    const bool whole = rest == kWidth;
    vfloat x = vload(sums + i);  // the sums of a tile are padded to vectors
    if (accumulate) x = x + (whole ? vload(out + i) : vload_part(out + i, rest));
    if (bias) x = x + (whole ? vload(bias + i) : vload_part(bias + i, rest));
    if (whole) {
      vstore(out + i, x);
    } else {
      vstore_part(out + i, rest, x);
    }
  }
}

// Rows [row, row + rows) and columns [column, column + columns) of a product, from their sums.
static void finish_rows(const Destination& out, int64_t row, int64_t rows, int64_t column, int64_t columns,
                        const float* sums, int64_t stride) {
  with_float_type(Operand{out.data, out.stride, out.dtype}, [&](auto* to) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(to)>>;
    with_float_type(out.bias, [&](auto* bias) {
      for (int64_t r = 0; r < rows; ++r) {
        finish_row(const_cast<T*>(to) + (row + r) * out.stride + column, sums + r * stride,
                   bias ? bias + column : nullptr, out.accumulate, columns);
      }
    });
  });
}

static int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t multiple) { return ceil_divide(a, multiple) * multiple; }

static void blocked_product(grpo_context& context, const Product& p, const Destination& out) {
  // Tiles of equal size, a few for each thread where the product is large enough.
  const int64_t threads = context.pool.threads();
  const int64_t row_tiles = ceil_divide(p.m, kCacheRows);
  const int64_t wanted = threads == 1 ? 1 : ceil_divide(4 * threads, row_tiles);
  const int64_t column_tiles = std::max(ceil_divide(p.n, kCacheColumns), std::min(wanted, p.n / kTileColumns));
  const int64_t rows_each = round_up(ceil_divide(p.m, row_tiles), kTileRows);
  const int64_t columns_each = round_up(ceil_divide(p.n, column_tiles), kTileColumns);
  const int64_t down = ceil_divide(p.m, rows_each), across = ceil_divide(p.n, columns_each);
  // Neighbours share the larger operand, so that it comes from memory once.
  const bool rows_first = p.n >= p.m;

  parallel_for(context, down * across, 1, [&](int64_t begin, int64_t end, int worker) {
    float* sums = static_cast<float*>(context.worker_scratch(worker, kProductScratchBytes));
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = (rows_first ? tile % down : tile / across) * rows_each;
      const int64_t column = (rows_first ? tile / down : tile % across) * columns_each;
      const int64_t rows = std::min(rows_each, p.m - row), columns = std::min(columns_each, p.n - column);
      cache_tile(p, row, rows, column, columns, sums);
      finish_rows(out, row, rows, column, columns, sums, kCacheColumns);
    }
  });
}
