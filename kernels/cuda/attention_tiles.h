// Attention in tiles on tensor cores: what its kernels share. bf16 heads of 64 or 128 elements.
//
// A block holds 64 or 128 rows, 16 or 32 a warp, and lets the rows that they meet pass by in tiles, the next one on its
// way while one is computed with. Reading shared memory is what bounds it: a warp with 32 rows uses each operand that
// it reads of a passing tile twice. The query heads that read one key head stand as rows of their own ("head rows"):
// head row i of a sequence is token i / group, head i % group of the group. So the heads of a group share each load of
// the keys, and short sequences fill tiles too.
//
// Tensor cores multiply zero by infinity where the plain kernels leave a key out. Such a product makes a sum NaN, so
// rows of results that are not finite are computed again by the code of the plain kernels, which stands in for this one
// wherever numbers are not finite.
#pragma once

#include "attention_rows.h"
#include "tensor_cores.h"

namespace grpo_cuda {

constexpr int kTileWarps = 4, kTileThreads = kTileWarps * kWarp;
// Of a block whose warps have kBlocks times 16 rows.
template <int kBlocks>
constexpr int kHeldRows = kTileWarps * 16 * kBlocks;

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
  template <int kRows, int kThreads = kTileThreads, class Place>
  __device__ __forceinline__ void fetch(const FloatRows& from, const Place& place) const {
    static_assert(kRows * kChunks % kThreads == 0 && kThreads % (8 * kChunks) == 0);
    const int thread = threadIdx.y * kWarp + threadIdx.x, row = thread / kChunks, column = thread % kChunks * 8;
    const SharedAddress to = chunk(row, thread % kChunks);
    const auto* const data = static_cast<const bf16*>(from.data) + column;
    const auto stride = static_cast<unsigned>(from.stride);
#pragma unroll
    for (int further = 0; further < kRows; further += kThreads / kChunks) {
      const HeadPlace at = place(row + further);
      // One multiplication: both are below 2^31.
      const uint64_t begin = uint64_t{static_cast<unsigned>(at.row)} * stride;
      copy_async(to + further * kRowBytes, data + begin + at.column, at.exists);
    }
  }
};

// A warp's sums, 16 rows at a time: of each block of eight columns n a lane holds four, element e in row row_of(e) and
// column 8 n + column_of(e). Of r blocks of 16 rows it has 2 r rows, the i-th of them row_of(2 i).
__device__ __forceinline__ int row_of(int e) { return threadIdx.x / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int e) { return threadIdx.x % 4 * 2 + e % 2; }

// Rows of a tile from `first` on as left operands, 16 at a time, read again each time.
template <int kWidth>
__device__ __forceinline__ auto left_rows(const Tile<kWidth>& tile, int first) {
  const SharedAddress down = tile.further(tile.down(), first, 0);
  return [=](unsigned(&operand)[4], int block, int step) {
    load_matrices(operand, Tile<kWidth>::further(down, 16 * block, step));
  };
}

// sums = the warp's rows . each of the kRows rows of `tile`; `left(operand, block, step)` gives the former.
template <int kRows, int kBlocks, int kWidth, class Left>
__device__ __forceinline__ void dot_rows(float (&sums)[kBlocks][kRows / 8][4], const Left& left,
                                         const Tile<kWidth>& tile) {
#pragma unroll
  for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[r][n][e] = 0.0f;
    }
  }
  const SharedAddress across = tile.across();
#pragma unroll
  for (int step = 0; step < kWidth / 16; ++step) {
    unsigned a[kBlocks][4], b[4];
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) left(a[r], r, step);
#pragma unroll
    for (int n = 0; n < kRows / 16; ++n) {
      load_matrices(b, tile.further(across, 16 * n, step));
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) {
        multiply_add(sums[r][2 * n], a[r], b[0], b[1]);
        multiply_add(sums[r][2 * n + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// sums += weights (rounded to bf16) times the kRows rows of `tile`.
template <int kRows, int kBlocks, int kWidth>
__device__ __forceinline__ void add_rows(float (&sums)[kBlocks][kWidth / 8][4],
                                         const float (&weights)[kBlocks][kRows / 8][4], const Tile<kWidth>& tile) {
  const SharedAddress down = tile.down();
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    unsigned a[kBlocks][4], b[4];
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) left_operand(a[r], weights[r][2 * step], weights[r][2 * step + 1]);
#pragma unroll
    for (int n = 0; n < kWidth / 16; ++n) {
      load_matrices_transposed(b, tile.further(down, 16 * step, n));
#pragma unroll
      for (int r = 0; r < kBlocks; ++r) {
        multiply_add(sums[r][2 * n], a[r], b[0], b[1]);
        multiply_add(sums[r][2 * n + 1], a[r], b[2], b[3]);
      }
    }
  }
}

// Over the four lanes that hold a row of sums.
template <class Join>
__device__ __forceinline__ float reduce_row(float value, const Join& join) {
  value = join(value, shuffle_xor(value, 1));
  return join(value, shuffle_xor(value, 2));
}

// Adds to `not_finite` of a lane's rows what it stores of them.
template <int kBlocks, int kColumns>
__device__ __forceinline__ void note_not_finite(bool (&not_finite)[2 * kBlocks],
                                                const float (&sums)[kBlocks][kColumns][4]) {
#pragma unroll
  for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        not_finite[2 * r + e / 2] |= (__float_as_uint(sums[r][n][e]) & 0x7f800000u) == 0x7f800000u;
      }
    }
  }
}
// again(row) for those of the warp's rows of which some lane said so, by the whole warp.
template <int kRows, class Again>
__device__ __forceinline__ void for_not_finite(const bool (&not_finite)[kRows], const Again& again) {
  unsigned rows = 0;  // a bit each
#pragma unroll
  for (int i = 0; i < kRows; ++i) rows |= static_cast<unsigned>(not_finite[i]) << row_of(2 * i);
  rows = warp_reduce(rows, [](unsigned a, unsigned b) { return a | b; });
  for (int row = 0; row < 8 * kRows; ++row) {
    if ((rows >> row & 1) == 0) continue;
    __syncwarp();
    again(row);
  }
}

// ---- the work list --------------------------------------------------------------------------------------------------

// `held` rows of a sequence, of which there are `per_token` for each token.
struct SequenceTile {
  int sequence, start, length, first;  // `start`: its first token; rows of the sequence; the first of the tile
  int parent_start, parent_length;     // tokens of the sequence that it continues
};

// Sequence b has the numbers from floor(its first row / tile) + b on: as many as it has tiles, or one more. They follow
// from the offsets alone, so that neither the host nor a launch before this one makes a list; a tile beyond the
// sequence's rows (first >= length) has nothing to do.
//
// A block's place in the grid is not its tile's number: of sequences of one length all first tiles come first, then all
// second ones, so that none of those with the most rows to meet begins last. The grid is a multiple of the sequences.
inline int64_t sequence_tiles(int64_t rows, int64_t sequences, int held) {
  return ceil_divide(rows / held + sequences, sequences) * sequences;
}
enum class TileOrder { kFirstBefore, kLastBefore };
template <int kHeld>
__device__ __forceinline__ SequenceTile sequence_tile(const DeviceSequences& s, TileOrder order, int64_t per_token) {
  const unsigned tiles = gridDim.x, place = order == TileOrder::kFirstBefore ? blockIdx.x : tiles - 1 - blockIdx.x;
  const auto sequences = static_cast<unsigned>(s.count);
  const int64_t number = place % sequences * (tiles / sequences) + place / sequences;
  const auto first_number = [&](int64_t b) { return s.offsets[b] * per_token / kHeld + b; };
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
  tile.first = static_cast<int>((number - first_number(low)) * kHeld);
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

// The keys that a tile of kHeld head rows meets, kKeys at a time: those of the parent, then those of the sequence.
template <int kHeld, int kKeys>
struct SeenKeys {
  SequenceTile part;
  int group, column, by_first, by_last;  // of the key head; how many keys the first and the last row of the tile see

  __device__ __forceinline__ SeenKeys(const SequenceTile& part, int group, int column)
      : part(part), group(group), column(column), by_first(by(0)) {
    by_last = by(min(kHeld, part.length - part.first) - 1);
  }
  // How many keys a row of the tile sees.
  __device__ __forceinline__ int by(int row) const { return part.parent_length + (part.first + row) / group + 1; }
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
         (kHeldRows<2> + rows) * heads.group <= INT32_MAX &&
         std::all_of(inputs.begin(), inputs.end(),
                     [](const grpo_tensor* t) {
                       return t->dtype == GRPO_BF16 && t->row_stride <= INT32_MAX && is_aligned(*t, 16);
                     }) &&
         std::all_of(others.begin(), others.end(), [](const grpo_tensor* t) { return is_aligned_for(*t, 4); });
}

// The attention of operands that fit.
grpo_status attention_tiles(grpo_context& context, const AttentionKernel& a, const DeviceSequences& sequences);

// Blocks hold `held` rows of those that there are `per_token` of each token, for each key head; `tile_rows` rows and
// `floats` numbers lie in shared memory.
inline Launch tile_launch(const Heads& heads, int64_t rows, int64_t sequences, int64_t per_token, int held,
                          int64_t tile_rows, int64_t floats = 0, int warps = kTileWarps) {
  const int64_t tiles = sequence_tiles(rows * per_token, sequences, held);
  return {dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads.query_heads / heads.group)),
          dim3(kWarp, static_cast<unsigned>(warps)), static_cast<size_t>(tile_rows * heads.width * 2 + floats * 4)};
}

}  // namespace grpo_cuda
