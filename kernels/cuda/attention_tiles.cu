// attention in tiles on tensor cores: a block holds 128 head rows of queries, keys and values pass by. Maxima, sums and
// output are float32; the weights are rounded to bf16 for the product with the values.

#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

constexpr int kBlocks = 2;  // of 16 rows, a warp
constexpr int kHeld = kHeldRows<kBlocks>;
// Rows of a tile that passes by: fewer of the longer head, for whose sums registers are needed.
template <int kWidth>
constexpr int kPassingRows = kWidth == 64 ? 64 : 32;

// Registers: output 128 and scores 32 (heads of 64: 64 and 64); with two blocks on a multiprocessor 255.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads, 2)
    attention_tiles_kernel(AttentionKernel a, DeviceSequences sequences) {
  constexpr int kKeys = kPassingRows<kWidth>, kRows = 2 * kBlocks;  // rows of a lane
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y, warp_row = 16 * kBlocks * threadIdx.y;
  // The last tiles of a sequence see the most keys: they begin first.
  const SequenceTile part = sequence_tile<kHeld>(sequences, TileOrder::kLastBefore, group);
  if (part.first >= part.length) return;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Tile<kWidth> queries = {shared_address(shared)};
  const auto passing = [&](int i) {
    return Tile<kWidth>{queries.begin + (kHeld + i * kKeys) * Tile<kWidth>::kRowBytes};
  };
  const auto keys = [&](int t) { return passing(t % 2 * 2); };
  const auto values = [&](int t) { return passing(t % 2 * 2 + 1); };

  const SeenKeys<kHeld, kKeys> seen_keys(part, group, key_head * kWidth);
  const int tiles = seen_keys.tiles();
  const auto fetch = [&](int t) {
    keys(t).template fetch<kKeys>(a.keys, [&](int i) { return seen_keys(t, i); });
    values(t).template fetch<kKeys>(a.values, [&](int i) { return seen_keys(t, i); });
  };
  queries.template fetch<kHeld>(
      a.queries, [&](int i) { return head_row(part.start, part.length, part.first + i, key_head, group, kWidth); });
  fetch(0);
  wait_for_copies();
  __syncthreads();
  // Those of shorter heads stay in registers.
  unsigned query[kBlocks][kWidth / 16][4];
  const auto read_query = left_rows(queries, warp_row);
  if constexpr (kWidth == 64) {
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) {
#pragma unroll
      for (int step = 0; step < kWidth / 16; ++step) read_query(query[r][step], r, step);
    }
  }
  const auto left = [&](unsigned(&operand)[4], int block, int step) {
    if constexpr (kWidth == 64) {
#pragma unroll
      for (int i = 0; i < 4; ++i) operand[i] = query[block][step][i];
    } else {
      read_query(operand, block, step);
    }
  };

  const float scale = a.scale * kLog2E;  // scores as powers of two
  float max[kRows], sum[kRows] = {}, out[kBlocks][kWidth / 8][4] = {};
#pragma unroll
  for (int i = 0; i < kRows; ++i) max[i] = -INFINITY;
  for (int t = 0; t < tiles; ++t) {
    if (t > 0) {
      wait_for_copies();
      __syncthreads();  // this tile is there, and everybody has done with the one before
    }
    if (t + 1 < tiles) fetch(t + 1);
    float weights[kBlocks][kKeys / 8][4];  // scores before they are scaled, then weights
    dot_rows<kKeys>(weights, left, keys(t));
    if (!seen_keys.all_see(t)) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int seen = seen_keys.by(warp_row + row_of(2 * i)) - t * kKeys;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
          for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) {
            if (8 * n + column_of(e) >= seen) weights[i / 2][n][e] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        most = fmaxf(fmaxf(most, weights[i / 2][n][i % 2 * 2]), weights[i / 2][n][i % 2 * 2 + 1]);
      }
      most = reduce_row(most, [](float x, float y) { return fmaxf(x, y); });
      const float next = fmaxf(most * scale, max[i]);  // `scale` is positive
      const float shift = next == -INFINITY ? 0.0f : next, kept = fast_exp2(max[i] - shift);
      max[i] = next;
      sum[i] *= kept;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) {
          weights[i / 2][n][e] = fast_exp2(fmaf(weights[i / 2][n][e], scale, -shift));
          sum[i] += weights[i / 2][n][e];
        }
      }
#pragma unroll
      for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
        for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) out[i / 2][n][e] *= kept;
      }
    }
    add_rows<kKeys>(out, weights, values(t));
  }

#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    sum[i] = reduce_row(sum[i], Sum{});
    const float inverse = 1.0f / sum[i];
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int e = i % 2 * 2; e < i % 2 * 2 + 2; ++e) out[i / 2][n][e] *= inverse;
    }
  }
  bool not_finite[kRows] = {};
  note_not_finite(not_finite, out);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int at = part.first + warp_row + row_of(2 * i), head = key_head * group + at % group;
    if (at >= part.length) {
      not_finite[i] = false;
      continue;
    }
    const int64_t row = part.start + at / group;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const float(&pair)[4] = out[i / 2][n];
      a.out.store<2>(row, head * kWidth + 8 * n + column_of(0), {{pair[i % 2 * 2], pair[i % 2 * 2 + 1]}});
    }
    if (a.log_sum_exp && threadIdx.x % 4 == 0)
      a.log_sum_exp[row * a.log_sum_exp_stride + head] = (max[i] + log2f(sum[i])) * kLn2;
  }
  // The warp's own queries are not read any more.
  auto* const own = reinterpret_cast<float*>(shared + warp_row * Tile<kWidth>::kRowBytes);
  for_not_finite(not_finite, [&](int i) {
    const int at = part.first + warp_row + i;
    const int64_t row = part.start + at / group;
    attention_row<kWidth / kWarp, 4>(a, sequences.seen_by(row), row, key_head * group + at % group, own);
  });
}

}  // namespace

grpo_status attention_tiles(grpo_context& context, const AttentionKernel& a, const DeviceSequences& sequences) {
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value, kRows = kHeld + 4 * kPassingRows<kWidth>;
    return launch(context, attention_tiles_kernel<kWidth>,
                  tile_launch(a.heads, a.rows, sequences.count, a.heads.group, kHeld, kRows), a, sequences);
  };
  return a.heads.width == 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 128>{});
}

}  // namespace grpo_cuda
