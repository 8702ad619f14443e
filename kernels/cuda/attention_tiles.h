// Attention in tiles on tensor cores: what its kernels share. bf16 heads of 64 or 128 elements.
//
// A block holds 64 rows, 16 a warp, and lets the rows that they meet pass by in tiles, the next one on its way while
// one is computed with. The query heads that read one key head stand as rows of their own ("head rows"): head row i of
// a sequence is token i / group, head i % group of the group. So the heads of a group share each load of the keys, and
// short sequences fill tiles too.
//
// Tensor cores multiply zero by infinity where the plain kernels leave a key out. Such a product makes a sum NaN, so
// rows of results that are not finite are computed again by the code of the plain kernels, which stands in for this one
// wherever numbers are not finite.
#pragma once

#include "attention_rows.h"
#include "tensor_cores.h"

namespace grpo_cuda {

constexpr int kTileWarps = 4, kTileThreads = kTileWarps * kWarp;
constexpr int kHeldRows = 16 * kTileWarps;
// Rows of a tile that passes by: fewer of the longer head, for whose sums registers are needed.
template <int kWidth>
constexpr int kPassingRows = kWidth == 64 ? 64 : 32;

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

// Rows of kWidth elements in shared memory. The 16-byte chunks of a row are permuted by its number's last three bits:
// the eight rows of a matrix that ldmatrix reads, and the eight chunks that a copy writes, then lie in different banks.
template <int kWidth>
struct Tile {
  static constexpr int kChunks = kWidth / 8;
  bf16* data;

  __device__ __forceinline__ bf16* chunk(int row, int chunk) const {
    return data + row * kWidth + (chunk ^ (row & 7)) * 8;
  }

  // Begins to copy kRows rows: `offset(i)` elements behind `from`, zeros where that is negative. By the whole block.
  template <int kRows, class Offset>
  __device__ __forceinline__ void fetch(const bf16* from, const Offset& offset) const {
    static_assert(kRows * kChunks % kTileThreads == 0);
#pragma unroll
    for (int n = 0; n < kRows * kChunks / kTileThreads; ++n) {
      const int i = n * kTileThreads + threadIdx.y * kWarp + threadIdx.x;
      const int64_t at = offset(i / kChunks);
      copy_async(chunk(i / kChunks, i % kChunks), from + (at < 0 ? 0 : at + i % kChunks * 8), at >= 0);
    }
  }

  // Rows first.. and columns 16 step.. as a left operand; or as a right operand whose rows they are (its columns as two
  // blocks of eight: elements 0 and 1, 2 and 3).
  __device__ __forceinline__ const bf16* by_rows(int first, int step) const {
    return chunk(first + threadIdx.x % 16, 2 * step + threadIdx.x / 16);
  }
  __device__ __forceinline__ void left(unsigned (&operand)[4], int first, int step) const {
    load_matrices(operand, by_rows(first, step));
  }
  __device__ __forceinline__ void right(unsigned (&operand)[4], int first, int step) const {
    load_matrices_transposed(operand, by_rows(first, step));
  }
  // Rows first.. as the columns of a right operand, two blocks of eight; its rows are columns 16 step..
  __device__ __forceinline__ void right_transposed(unsigned (&operand)[4], int first, int step) const {
    load_matrices(operand, chunk(first + threadIdx.x % 8 + threadIdx.x / 16 * 8, 2 * step + threadIdx.x / 8 % 2));
  }
};

// What a lane holds of 16 rows and kColumns columns of a warp's sums: element e of block n is row_of(e), column
// 8 n + column_of(e).
template <int kColumns>
using Sums = float[kColumns / 8][4];
__device__ __forceinline__ int row_of(int e) { return threadIdx.x / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int e) { return threadIdx.x % 4 * 2 + e % 2; }

// sums = 16 rows . each of the kRows rows of `tile`; `left(operand, step)` gives the rows.
template <int kRows, int kWidth, class Left>
__device__ __forceinline__ void dot_rows(float (&sums)[kRows / 8][4], const Left& left, const Tile<kWidth>& tile) {
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0.0f;
  }
#pragma unroll
  for (int step = 0; step < kWidth / 16; ++step) {
    unsigned a[4], b[4];
    left(a, step);
#pragma unroll
    for (int n = 0; n < kRows / 16; ++n) {
      tile.right_transposed(b, 16 * n, step);
      multiply_add(sums[2 * n], a, b[0], b[1]);
      multiply_add(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// sums += weights (rounded to bf16) times the kRows rows of `tile`.
template <int kRows, int kWidth>
__device__ __forceinline__ void add_rows(float (&sums)[kWidth / 8][4], const float (&weights)[kRows / 8][4],
                                         const Tile<kWidth>& tile) {
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    unsigned a[4], b[4];
    left_operand(a, weights[2 * step], weights[2 * step + 1]);
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      tile.right(b, 16 * step, n);
      multiply_add(sums[2 * n], a, b[0], b[1]);
      multiply_add(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Over the four lanes that hold a row of sums.
template <class Join>
__device__ __forceinline__ float reduce_row(float value, const Join& join) {
  value = join(value, shuffle_xor(value, 1));
  return join(value, shuffle_xor(value, 2));
}

// Adds to `not_finite` of a lane's two rows what it stores of them.
template <int kWidth>
__device__ __forceinline__ void note_not_finite(bool (&not_finite)[2], const float (&sums)[kWidth / 8][4]) {
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) not_finite[e / 2] |= (__float_as_uint(sums[n][e]) & 0x7f800000u) == 0x7f800000u;
  }
}
// again(row) for those of the warp's 16 rows of which some lane said so, by the whole warp.
template <class Again>
__device__ __forceinline__ void for_not_finite(const bool (&not_finite)[2], const Again& again) {
  const float noted[2] = {reduce_row(not_finite[0], Max{}), reduce_row(not_finite[1], Max{})};
  for (int row = 0; row < 16; ++row) {
    const float is_noted = __shfl_sync(kWholeWarp, row < 8 ? noted[0] : noted[1], row % 8 * 4);
    if (is_noted == 0.0f) continue;
    __syncwarp();
    again(row);
  }
}

// ---- the work list --------------------------------------------------------------------------------------------------

// A tile of a sequence's rows, of which there are `width` for each token.
struct SequenceTile {
  int64_t sequence, start;  // and the row that it begins at
  int length, first;        // rows of the sequence, first row of the tile
  int64_t parent_start;     // of the sequence that it continues, of parent_length rows
  int parent_length;

  // The token that the logical row i of keys stands for: the parent's rows, then the sequence's own.
  __device__ __forceinline__ int64_t key_row(int i) const {
    return i < parent_length ? parent_start + i : start + i - parent_length;
  }
};

// Sequence b has the numbers from floor(its first row / tile) + b on: as many as it has tiles, or one more. They follow
// from the offsets alone, so that neither the host nor a launch before this one makes a list; a tile beyond the
// sequence's rows (first >= length) has nothing to do.
inline int64_t sequence_tiles(int64_t rows, int64_t sequences) { return rows / kHeldRows + sequences; }
__device__ __forceinline__ SequenceTile sequence_tile(const DeviceSequences& s, int64_t number, int64_t per_token) {
  const auto first_number = [&](int64_t b) { return s.offsets[b] * per_token / kHeldRows + b; };
  int64_t low = 0, high = s.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (first_number(middle) <= number)
      low = middle;
    else
      high = middle - 1;
  }
  SequenceTile tile = {};
  tile.sequence = low;
  tile.start = s.offsets[low];
  tile.length = static_cast<int>((s.offsets[low + 1] - tile.start) * per_token);
  tile.first = static_cast<int>((number - first_number(low)) * kHeldRows);
  const int64_t parent = s.parents ? s.parents[low] : -1;
  if (parent >= 0) {
    tile.parent_start = s.offsets[parent];
    tile.parent_length = static_cast<int>(s.offsets[parent + 1] - tile.parent_start);
  }
  return tile;
}

// ---- on the host ----------------------------------------------------------------------------------------------------

// Whether tiles can take it: else the plain kernels do. `inputs` are multiplied, `others` read or written in pairs.
inline bool fits_tiles(const Heads& heads, int64_t rows, std::initializer_list<const grpo_tensor*> inputs,
                       std::initializer_list<const grpo_tensor*> others) {
  return (heads.width == 64 || heads.width == 128) && heads.query_heads / heads.group <= 65535 &&
         rows * heads.group <= INT32_MAX - kHeldRows &&
         std::all_of(inputs.begin(), inputs.end(),
                     [](const grpo_tensor* t) { return t->dtype == GRPO_BF16 && is_aligned(*t, 16); }) &&
         std::all_of(others.begin(), others.end(), [](const grpo_tensor* t) { return is_aligned_for(*t, 4); });
}

// The attention of operands that fit.
grpo_status attention_tiles(grpo_context& context, const AttentionKernel& a, const DeviceSequences& sequences);

// `per_token` rows are held of each token, for each key head, with `tile_rows` rows and `floats` numbers in shared
// memory.
inline Launch tile_launch(const Heads& heads, int64_t rows, int64_t sequences, int64_t per_token, int64_t tile_rows,
                          int64_t floats = 0) {
  const int64_t tiles = sequence_tiles(rows * per_token, sequences);
  return {dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads.query_heads / heads.group)),
          dim3(kWarp, kTileWarps), static_cast<size_t>(tile_rows * heads.width * 2 + floats * 4)};
}

}  // namespace grpo_cuda
