// attention_backward in tiles on tensor cores (attention_backward_rows.h has the formulas): first the gradients of
// queries, 128 head rows a block, which meet the keys; then those of keys and values, 64 a block, which meet the head
// rows that see them. Nothing is added up by atomics. Sums are float32; the weights and the gradients of scores
// are rounded to bf16 for the products that they are factors of.

#include "attention_backward_rows.h"
#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

constexpr int kBackwardRows = 32;  // that a warp takes at a time of those that pass by

// What a row's scores, kept as powers of two, are shifted by to be weights; a row without finite scores has none.
__device__ __forceinline__ float weight_shift(float log_sum_exp) {
  return log_sum_exp == -INFINITY ? INFINITY : log_sum_exp * kLog2E;
}

constexpr int kQueryBlocks = 2;  // of 16 rows, a warp
constexpr int kHeldQueries = kHeldRows<kQueryBlocks>;

// Registers: sums 128 (heads of 128), scores and their gradients 64; with two blocks on a multiprocessor 255.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads, 2) grad_queries_tiles_kernel(BackwardKernel a) {
  constexpr int kKeys = kBackwardRows, kBlocks = kQueryBlocks, kHeld = kHeldQueries, kRows = 2 * kBlocks;
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y, warp_row = 16 * kBlocks * threadIdx.y;
  const SequenceTile part = sequence_tile<kHeld>(a.sequences, TileOrder::kLastBefore, group);
  if (part.first >= part.length) return;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const auto tile = [&](int row) { return Tile<kWidth>{shared_address(shared) + row * Tile<kWidth>::kRowBytes}; };
  const Tile<kWidth> queries = tile(0), grad_out = tile(kHeld);
  const auto keys = [&](int t) { return tile(2 * kHeld + t % 2 * 2 * kKeys); };
  const auto values = [&](int t) { return tile(2 * kHeld + (t % 2 * 2 + 1) * kKeys); };
  // Of each held row; read again for each tile, since registers are scarce.
  auto* const deltas = reinterpret_cast<float*>(shared + (2 * kHeld + 4 * kKeys) * Tile<kWidth>::kRowBytes);
  auto* const shifts = deltas + kHeld;

  const SeenKeys<kHeld, kKeys> seen_keys(part, group, key_head * kWidth);
  const int tiles = seen_keys.tiles();
  const auto fetch = [&](int t) {
    keys(t).template fetch<kKeys>(a.keys, [&](int i) { return seen_keys(t, i); });
    values(t).template fetch<kKeys>(a.values, [&](int i) { return seen_keys(t, i); });
  };
  const auto held = [&](int i) { return head_row(part.start, part.length, part.first + i, key_head, group, kWidth); };
  queries.template fetch<kHeld>(a.queries, held);
  grad_out.template fetch<kHeld>(a.grad_out, held);
  fetch(0);

  // delta = dO . o of the held rows: four elements a lane at a time.
  constexpr int kLanes = kWidth / 4;
  for (int i = (threadIdx.y * kWarp + threadIdx.x) / kLanes; i < kHeld; i += kTileThreads / kLanes) {
    const HeadPlace at = held(i);
    float delta = 0.0f;
    if (at.exists) {
      const Floats<4> x = a.grad_out.load<4>(at.row, at.column + threadIdx.x % kLanes * 4);
      const Floats<4> y = a.out.load<4>(at.row, at.column + threadIdx.x % kLanes * 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) delta = fmaf(x.item[k], y.item[k], delta);
    }
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) delta += shuffle_xor(delta, distance);
    if (threadIdx.x % kLanes == 0) {
      deltas[i] = delta;
      shifts[i] = weight_shift(a.log_sum_exp[at.row * a.log_sum_exp_stride + at.column / kWidth]);
      if (at.exists) a.delta[at.row * a.heads.query_heads + at.column / kWidth] = delta;
    }
  }

  const float scale = a.scale * kLog2E;
  float grad[kBlocks][kWidth / 8][4] = {};
  for (int t = 0; t < tiles; ++t) {
    wait_for_copies();
    __syncthreads();  // this tile is there, and everybody has done with the one before
    if (t + 1 < tiles) fetch(t + 1);
    float weights[kBlocks][kKeys / 8][4], grad_scores[kBlocks][kKeys / 8][4];
    dot_rows<kKeys>(weights, left_rows(queries, warp_row), keys(t));
    dot_rows<kKeys>(grad_scores, left_rows(grad_out, warp_row), values(t));
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float delta = deltas[warp_row + row_of(2 * i)], shift = shifts[warp_row + row_of(2 * i)];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) {
          float& grad_score = grad_scores[i / 2][n][e];
          grad_score = fast_exp2(fmaf(weights[i / 2][n][e], scale, -shift)) * (grad_score - delta);
        }
      }
    }
    if (!seen_keys.all_see(t)) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int seen = seen_keys.by(warp_row + row_of(2 * i)) - t * kKeys;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) {
            if (8 * n + column_of(e) >= seen) grad_scores[i / 2][n][e] = 0.0f;
          }
        }
      }
    }
    add_rows<kKeys>(grad, grad_scores, keys(t));
  }

  bool not_finite[kRows] = {};
  note_not_finite(not_finite, grad);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const HeadPlace at = held(warp_row + row_of(2 * i));
    not_finite[i] = not_finite[i] && at.exists;
    if (!at.exists) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const float(&pair)[4] = grad[i / 2][n];
      a.grad_queries.store<2>(at.row, at.column + 8 * n + column_of(0),
                              {{pair[i % 2 * 2] * a.scale, pair[i % 2 * 2 + 1] * a.scale}});
    }
  }
  // The warp's own queries are not read any more.
  auto* const own = reinterpret_cast<float*>(shared + warp_row * Tile<kWidth>::kRowBytes);
  for_not_finite(not_finite, [&](int i) {
    const HeadPlace at = held(warp_row + i);
    grad_queries_row<kWidth / kWarp, 4>(a, at.row, at.column / kWidth, own);
  });
}

// The head rows that see a tile of keys, kRows at a time: those of its own sequence from its first token on, then all
// of the sequences that continue it.
template <int kRows>
struct SeeingRows {
  int sequence, start, first, end;  // its first token; the first of its head rows here, and how many it has
  bool own;

  __device__ __forceinline__ bool next(const DeviceSequences& s, const SequenceTile& part, int group) {
    first += kRows;
    // One that continues another is not continued itself.
    if (first >= end && (!s.parents || part.parent_length > 0)) return false;
    while (first >= end) {
      do {
        if (++sequence >= s.count) return false;
      } while (s.parents[sequence] != part.sequence);
      own = false;
      start = s.offsets[sequence];
      first = 0;
      end = (s.offsets[sequence + 1] - start) * group;
    }
    return true;
  }
};

// There are few keys beside the rows that see them, and the first keys of a sequence are seen by all: eight warps share
// 64 keys, and the warps with the same keys share the rows that pass by. Their sums are added up at the end.
template <int kWidth>
struct KeyTiles {
  static constexpr int kBlocks = kWidth == 64 ? 2 : 1;  // of 16 keys, a warp: for more, 128 elements have no registers
  static constexpr int kHeld = 64, kKeyWarps = kHeld / (16 * kBlocks), kParts = 8 / kKeyWarps;
  static constexpr int kThreads = kKeyWarps * kParts * kWarp, kPassing = kParts * kBackwardRows;
  static constexpr int kSums = kBlocks * 16 * kWidth;  // of a warp, for keys or values
};

// Adds to the sums of the warps of the first part those of the others, in order. By the block.
template <int kKeyWarps, int kParts, int kBlocks, int kColumns>
__device__ __forceinline__ void join_parts(float (&sums)[kBlocks][kColumns][4], Pack<float>* memory) {
  const int part = threadIdx.y / kKeyWarps, key_warp = threadIdx.y % kKeyWarps;
  const auto place = [&](int other, int r, int n) {
    return memory + ((((other - 1) * kKeyWarps + key_warp) * kBlocks + r) * kColumns + n) * kWarp + threadIdx.x;
  };
  __syncthreads();  // nobody needs what was in this memory
  if (part > 0) {
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        *place(part, r, n) = {{sums[r][n][0], sums[r][n][1], sums[r][n][2], sums[r][n][3]}};
      }
    }
  }
  __syncthreads();
  if (part > 0) return;
  for (int other = 1; other < kParts; ++other) {
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
      for (int n = 0; n < kColumns; ++n) {
        const Pack<float> more = *place(other, r, n);
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[r][n][e] += more.item[e];
      }
    }
  }
}

// Registers: sums 128, scores and their gradients 32 (heads of 64: 64); with one block on a multiprocessor 255.
template <int kWidth>
__global__ void __launch_bounds__(KeyTiles<kWidth>::kThreads, 1) grad_keys_tiles_kernel(BackwardKernel a) {
  using K = KeyTiles<kWidth>;
  constexpr int kRows = kBackwardRows, kBlocks = K::kBlocks, kHeld = K::kHeld, kKeys = 2 * kBlocks;
  constexpr int kPassing = K::kPassing, kThreads = K::kThreads;
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y;
  const int key_warp = threadIdx.y % K::kKeyWarps, warp_row = 16 * kBlocks * key_warp;
  const int first_row = threadIdx.y / K::kKeyWarps * kRows;  // of those that pass by, for this warp
  // The first keys of a sequence are seen by the most rows: they begin first.
  const SequenceTile part = sequence_tile<kHeld>(a.sequences, TileOrder::kFirstBefore, 1);
  if (part.first >= part.length) return;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const auto tile = [&](int row) { return Tile<kWidth>{shared_address(shared) + row * Tile<kWidth>::kRowBytes}; };
  const Tile<kWidth> keys = tile(0), values = tile(kHeld);
  const auto queries = [&](int t, int row) { return tile(2 * kHeld + t % 2 * 2 * kPassing + row); };
  const auto grad_out = [&](int t, int row) { return tile(2 * kHeld + (t % 2 * 2 + 1) * kPassing + row); };
  auto* const numbers = reinterpret_cast<float*>(shared + (2 * kHeld + 4 * kPassing) * Tile<kWidth>::kRowBytes);
  const auto shifts = [&](int t) { return numbers + t % 2 * 2 * kPassing; };
  const auto deltas = [&](int t) { return numbers + (t % 2 * 2 + 1) * kPassing; };

  const auto held = [&](int i) -> HeadPlace {
    const int key = part.first + i;
    return {part.start + min(key, part.length - 1), key_head * kWidth, key < part.length};
  };
  keys.template fetch<kHeld, kThreads>(a.keys, held);
  values.template fetch<kHeld, kThreads>(a.values, held);
  const auto fetch = [&](const SeeingRows<kPassing>& rows, int t) {
    const auto place = [&](int i) { return head_row(rows.start, rows.end, rows.first + i, key_head, group, kWidth); };
    queries(t, 0).template fetch<kPassing, kThreads>(a.queries, place);
    grad_out(t, 0).template fetch<kPassing, kThreads>(a.grad_out, place);
    const int i = threadIdx.y * kWarp + threadIdx.x;
    if (i < kPassing) {
      const HeadPlace at = place(i);
      const int head = at.column / kWidth;
      shifts(t)[i] = at.exists ? weight_shift(a.log_sum_exp[at.row * a.log_sum_exp_stride + head]) : INFINITY;
      deltas(t)[i] = at.exists ? a.delta[at.row * a.heads.query_heads + head] : 0.0f;
    }
  };

  const float scale = a.scale * kLog2E;
  float grad_keys[kBlocks][kWidth / 8][4] = {}, grad_values[kBlocks][kWidth / 8][4] = {};
  SeeingRows<kPassing> rows = {part.sequence, part.start, part.first * group, part.length * group, true};
  fetch(rows, 0);
  bool more = true;
  for (int t = 0; more; ++t) {
    wait_for_copies();
    __syncthreads();  // this tile is there, and everybody has done with the one before
    const int first = rows.first + first_row;
    const bool own = rows.own, exist = first < rows.end;
    more = rows.next(a.sequences, part, group);
    if (more) fetch(rows, t + 1);
    // None of these rows is there, or sees the warp's keys.
    if (!exist || (own && first + kRows <= (part.first + warp_row) * group)) continue;
    float weights[kBlocks][kRows / 8][4], grad_scores[kBlocks][kRows / 8][4];
    dot_rows<kRows>(weights, left_rows(keys, warp_row), queries(t, first_row));
    dot_rows<kRows>(grad_scores, left_rows(values, warp_row), grad_out(t, first_row));
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = first_row + 8 * n + column_of(e);
        const float shift = shifts(t)[column], delta = deltas(t)[column];
#pragma unroll
        for (int i = 0; i < kKeys; ++i) {
          float &weight = weights[i / 2][n][i % 2 * 2 + e], &grad = grad_scores[i / 2][n][i % 2 * 2 + e];
          weight = fast_exp2(fmaf(weight, scale, -shift));
          grad = weight * (grad - delta);
        }
      }
    }
    if (own && first < (part.first + warp_row + 16 * kBlocks - 1) * group) {
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        // The first head row that sees the key.
        const int seen_from = (part.first + warp_row + row_of(2 * i)) * group - first;
#pragma unroll
        for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
          for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) {
            if (8 * n + column_of(e) < seen_from) weights[i / 2][n][e] = grad_scores[i / 2][n][e] = 0.0f;
          }
        }
      }
    }
    add_rows<kRows>(grad_values, weights, grad_out(t, first_row));
    add_rows<kRows>(grad_keys, grad_scores, queries(t, first_row));
  }

  auto* const joined = reinterpret_cast<Pack<float>*>(shared);
  join_parts<K::kKeyWarps, K::kParts>(grad_keys, joined);
  join_parts<K::kKeyWarps, K::kParts>(grad_values, joined);
  if (first_row > 0) return;
  bool not_finite[kKeys] = {};
  note_not_finite(not_finite, grad_keys);
  note_not_finite(not_finite, grad_values);
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const int key = part.first + warp_row + row_of(2 * i);
    not_finite[i] = not_finite[i] && key < part.length;
    if (key >= part.length) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int64_t column = int64_t{key_head} * kWidth + 8 * n + column_of(0);
      const float(&of_key)[4] = grad_keys[i / 2][n], (&of_value)[4] = grad_values[i / 2][n];
      const int e = i % 2 * 2;
      a.grad_keys.store<2>(part.start + key, column, {{of_key[e] * a.scale, of_key[e + 1] * a.scale}});
      a.grad_values.store<2>(part.start + key, column, {{of_value[e], of_value[e + 1]}});
    }
  }
  // Behind the sums, which another warp may still read.
  static_assert(((K::kParts - 1) * K::kSums + 2 * kWidth) * K::kKeyWarps <= (kHeld + 2 * kPassing) * kWidth);
  auto* const own =
      reinterpret_cast<float*>(shared) + (K::kParts - 1) * K::kKeyWarps * K::kSums + key_warp * 2 * kWidth;
  for_not_finite(not_finite, [&](int i) {
    grad_keys_row<kWidth / kWarp, 4>(a, part.start + part.first + warp_row + i, key_head, own);
  });
}

}  // namespace

grpo_status attention_backward_tiles(grpo_context& context, const BackwardKernel& a) {
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    using K = KeyTiles<kWidth>;
    const int64_t sequences = a.sequences.count;
    if (auto status = launch(context, grad_queries_tiles_kernel<kWidth>,
                             tile_launch(a.heads, a.rows, sequences, a.heads.group, kHeldQueries,
                                         2 * kHeldQueries + 4 * kBackwardRows, 2 * kHeldQueries),
                             a)) {
      return status;
    }
    return launch(context, grad_keys_tiles_kernel<kWidth>,
                  tile_launch(a.heads, a.rows, sequences, 1, K::kHeld, 2 * K::kHeld + 4 * K::kPassing, 4 * K::kPassing,
                              K::kThreads / kWarp),
                  a);
  };
  return a.heads.width == 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 128>{});
}

}  // namespace grpo_cuda
