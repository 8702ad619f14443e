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

// Where the elements of a head of some row begin, and whether there is such a row.
struct HeadPlace {
  int row, column;
  bool exists;
};

// Rows of kWidth elements in shared memory, from a multiple of 128 bytes on. The 16-byte chunks of a row are permuted:
// the last three bits of a chunk's number are XORed with those of the row's. So the eight rows of a matrix that
// ldmatrix reads lie in different banks, and so do the eight chunks of a row that a copy writes.
template <int kWidth>
struct Tile {
  static constexpr int kRowBytes = kWidth * 2, kChunks = kWidth / 8;
  SharedAddress begin;

  __device__ __forceinline__ SharedAddress chunk(int row, int chunk) const {
    return begin + row * kRowBytes + (chunk ^ (row & 7)) * 16;
  }
  // From the chunk in column 0 or 8 of one of the first 16 rows to that in a row some multiple of eight and a column
  // 16 step further: what changes is added, or XORed into bits 5 and 6, with one operation a step.
  static __device__ __forceinline__ SharedAddress further(SharedAddress chunk, int rows, int step) {
    return (chunk ^ (step % 4 * 32)) + rows * kRowBytes + step / 4 * 128;
  }
  // What a lane names to read 16x16 elements, a matrix of 8x8 each eight lanes: rows first, or columns first.
  __device__ __forceinline__ SharedAddress down() const { return chunk(threadIdx.x % 16, threadIdx.x / 16); }
  __device__ __forceinline__ SharedAddress across() const {
    return chunk(threadIdx.x % 8 + threadIdx.x / 16 * 8, threadIdx.x / 8 % 2);
  }

  // Begins to copy kRows rows, row i from place(i), else zeros; the row there is valid memory either way. By the block.
  template <int kRows, class Place>
  __device__ __forceinline__ void fetch(const FloatRows& from, const Place& place) const {
    static_assert(kRows * kChunks % kTileThreads == 0 && kTileThreads % (8 * kChunks) == 0);
    const int thread = threadIdx.y * kWarp + threadIdx.x, row = thread / kChunks, column = thread % kChunks * 8;
    const SharedAddress to = chunk(row, thread % kChunks);
    const auto* const data = static_cast<const bf16*>(from.data) + column;
    const int stride = static_cast<int>(from.stride);
#pragma unroll
    for (int further = 0; further < kRows; further += kTileThreads / kChunks) {
      const HeadPlace at = place(row + further);
      copy_async(to + further * kRowBytes, data + int64_t{at.row} * stride + at.column, at.exists);
    }
  }
};

// A warp's sums over 16 rows: of each block of eight columns n a lane holds four, element e in row row_of(e) and column
// 8 n + column_of(e).
__device__ __forceinline__ int row_of(int e) { return threadIdx.x / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int e) { return threadIdx.x % 4 * 2 + e % 2; }

// 16 rows of a tile as left operands, read again each time.
template <int kWidth>
__device__ __forceinline__ auto left_rows(const Tile<kWidth>& tile, int first) {
  const SharedAddress down = tile.further(tile.down(), first, 0);
  return [=](unsigned(&operand)[4], int step) { load_matrices(operand, Tile<kWidth>::further(down, 0, step)); };
}

// sums = 16 rows . each of the kRows rows of `tile`; `left(operand, step)` gives the rows.
template <int kRows, int kWidth, class Left>
__device__ __forceinline__ void dot_rows(float (&sums)[kRows / 8][4], const Left& left, const Tile<kWidth>& tile) {
#pragma unroll
  for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0.0f;
  }
  const SharedAddress across = tile.across();
#pragma unroll
  for (int step = 0; step < kWidth / 16; ++step) {
    unsigned a[4], b[4];
    left(a, step);
#pragma unroll
    for (int n = 0; n < kRows / 16; ++n) {
      load_matrices(b, tile.further(across, 16 * n, step));
      multiply_add(sums[2 * n], a, b[0], b[1]);
      multiply_add(sums[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// sums += weights (rounded to bf16) times the kRows rows of `tile`.
template <int kRows, int kWidth>
__device__ __forceinline__ void add_rows(float (&sums)[kWidth / 8][4], const float (&weights)[kRows / 8][4],
                                         const Tile<kWidth>& tile) {
  const SharedAddress down = tile.down();
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    unsigned a[4], b[4];
    left_operand(a, weights[2 * step], weights[2 * step + 1]);
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      load_matrices_transposed(b, tile.further(down, 16 * step, n));
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

// 64 rows of a sequence, of which there are `per_token` for each token.
struct SequenceTile {
  int sequence, start, length, first;  // `start`: its first token; rows of the sequence; the first of the tile
  int parent_start, parent_length;     // tokens of the sequence that it continues
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
  tile.sequence = static_cast<int>(low);
  tile.start = s.offsets[low];
  tile.length = static_cast<int>((s.offsets[low + 1] - tile.start) * per_token);
  tile.first = static_cast<int>((number - first_number(low)) * kHeldRows);
  const int64_t parent = s.parents ? s.parents[low] : -1;
  if (parent >= 0) {
    tile.parent_start = s.offsets[parent];
    tile.parent_length = s.offsets[parent + 1] - tile.parent_start;
  }
  return tile;
}

// Where head row `row` of a sequence lies that begins at the token `start` and has `length` of them.
__device__ __forceinline__ HeadPlace head_row(int start, int length, int row, int key_head, int group, int width) {
  const unsigned within = min(row, length - 1), token = within / static_cast<unsigned>(group);
  const int head = key_head * group + static_cast<int>(within - token * group);
  return {start + static_cast<int>(token), head * width, row < length};
}

// The keys that a tile of head rows meets, kKeys at a time: those of the parent, then those of the sequence.
template <int kKeys>
struct SeenKeys {
  SequenceTile part;
  int column, by_first, by_last;  // of the key head; how many keys the first and the last row of the tile see

  __device__ __forceinline__ SeenKeys(const SequenceTile& part, int group, int column)
      : part(part), column(column), by_first(part.parent_length + part.first / group + 1) {
    by_last = part.parent_length + (min(part.first + kHeldRows, part.length) - 1) / group + 1;
  }
  __device__ __forceinline__ int tiles() const { return (by_last + kKeys - 1) / kKeys; }
  __device__ __forceinline__ bool all_see(int tile) const { return (tile + 1) * kKeys <= by_first; }
  __device__ __forceinline__ HeadPlace operator()(int tile, int i) const {
    const int key = tile * kKeys + i, seen = min(key, by_last - 1);
    return {seen < part.parent_length ? part.parent_start + seen : part.start + seen - part.parent_length, column,
            key < by_last};
  }
};

// ---- on the host ----------------------------------------------------------------------------------------------------

// Whether tiles can take it: else the plain kernels do. `inputs` are multiplied, `others` read or written in pairs.
inline bool fits_tiles(const Heads& heads, int64_t rows, std::initializer_list<const grpo_tensor*> inputs,
                       std::initializer_list<const grpo_tensor*> others) {
  return (heads.width == 64 || heads.width == 128) && heads.query_heads / heads.group <= 65535 &&
         (rows + kHeldRows) * heads.group <= INT32_MAX &&
         std::all_of(inputs.begin(), inputs.end(),
                     [](const grpo_tensor* t) {
                       return t->dtype == GRPO_BF16 && t->row_stride <= INT32_MAX && is_aligned(*t, 16);
                     }) &&
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
