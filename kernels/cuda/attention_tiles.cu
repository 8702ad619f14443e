// attention in tiles on tensor cores: a block holds 64 head rows of queries, keys and values pass by. Maxima, sums and
// output are float32; the weights are rounded to bf16 for the product with the values.

#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

// Registers: output 64, queries 32 and scores 16 (heads of 64: 32, 16 and 32); with three blocks on a multiprocessor
// 168.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads, 3)
    attention_tiles_kernel(AttentionKernel a, DeviceSequences sequences) {
  constexpr int kKeys = kPassingRows<kWidth>;
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y, warp = threadIdx.y;
  // The last tiles of a sequence see the most keys: they begin first.
  const SequenceTile part = sequence_tile(sequences, gridDim.x - 1 - blockIdx.x, group);
  if (part.first >= part.length) return;
  unsigned char* const shared = dynamic_shared<unsigned char>();
  const Tile<kWidth> queries = {shared_address(shared)};
  const auto passing = [&](int i) {
    return Tile<kWidth>{queries.begin + (kHeldRows + i * kKeys) * Tile<kWidth>::kRowBytes};
  };
  const auto keys = [&](int t) { return passing(t % 2 * 2); };
  const auto values = [&](int t) { return passing(t % 2 * 2 + 1); };

  const SeenKeys<kKeys> seen_keys(part, group, key_head * kWidth);
  const int tiles = seen_keys.tiles();
  const auto fetch = [&](int t) {
    keys(t).template fetch<kKeys>(a.keys, [&](int i) { return seen_keys(t, i); });
    values(t).template fetch<kKeys>(a.values, [&](int i) { return seen_keys(t, i); });
  };
  queries.template fetch<kHeldRows>(
      a.queries, [&](int i) { return head_row(part.start, part.length, part.first + i, key_head, group, kWidth); });
  fetch(0);
  wait_for_copies();
  __syncthreads();
  unsigned query[kWidth / 16][4];
#pragma unroll
  for (int step = 0; step < kWidth / 16; ++step) {
    load_matrices(query[step], queries.further(queries.down(), 16 * warp, step));
  }

  // Scores are kept as powers of two.
  const float scale = a.scale * kLog2E;
  int seen[2];  // how many keys a lane's two rows see
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, out[kWidth / 8][4] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    seen[i] = part.parent_length + (part.first + 16 * warp + row_of(2 * i)) / group + 1;
  }
  for (int t = 0; t < tiles; ++t) {
    if (t > 0) {
      wait_for_copies();
      __syncthreads();  // this tile is there, and everybody has done with the one before
    }
    if (t + 1 < tiles) fetch(t + 1);
    float weights[kKeys / 8][4];
    dot_rows<kKeys>(
        weights,
        [&](unsigned(&a)[4], int step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) a[i] = query[step][i];
        },
        keys(t));
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) weights[n][e] *= scale;
    }
    if (!seen_keys.all_see(t)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (t * kKeys + 8 * n + column_of(e) >= seen[e / 2]) weights[n][e] = -INFINITY;
        }
      }
    }
    float most[2] = {-INFINITY, -INFINITY}, kept[2], shift[2];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) most[e / 2] = fmaxf(weights[n][e], most[e / 2]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float next = fmaxf(reduce_row(most[i], Max{}), max[i]);
      shift[i] = next == -INFINITY ? 0.0f : next;
      kept[i] = fast_exp2(max[i] - shift[i]);
      sum[i] *= kept[i];
      max[i] = next;
    }
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        weights[n][e] = fast_exp2(weights[n][e] - shift[e / 2]);
        sum[e / 2] += weights[n][e];
      }
    }
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) out[n][e] *= kept[e / 2];
    }
    add_rows<kKeys>(out, weights, values(t));
  }

  bool not_finite[2] = {};
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sum[i] = reduce_row(sum[i], Sum{});
    inverse[i] = 1.0f / sum[i];
  }
#pragma unroll
  for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[n][e] *= inverse[e / 2];
  }
  note_not_finite<kWidth>(not_finite, out);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = part.first + 16 * warp + row_of(2 * i), head = key_head * group + at % group;
    if (at >= part.length) {
      not_finite[i] = false;
      continue;
    }
    const int64_t row = part.start + at / group;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      a.out.store<2>(row, head * kWidth + 8 * n + column_of(0), {{out[n][2 * i], out[n][2 * i + 1]}});
    }
    if (a.log_sum_exp && threadIdx.x % 4 == 0)
      a.log_sum_exp[row * a.log_sum_exp_stride + head] = (max[i] + log2f(sum[i])) * kLn2;
  }
  // The warp's own queries are not read any more.
  auto* const own = reinterpret_cast<float*>(shared + 16 * warp * Tile<kWidth>::kRowBytes);
  for_not_finite(not_finite, [&](int i) {
    const int at = part.first + 16 * warp + i;
    const int64_t row = part.start + at / group;
    attention_row<kWidth / kWarp, 4>(a, sequences.seen_by(row), row, key_head * group + at % group, own);
  });
}

}  // namespace

grpo_status attention_tiles(grpo_context& context, const AttentionKernel& a, const DeviceSequences& sequences) {
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value, kRows = kHeldRows + 4 * kPassingRows<kWidth>;
    return launch(context, attention_tiles_kernel<kWidth>,
                  tile_launch(a.heads, a.rows, sequences.count, a.heads.group, kRows), a, sequences);
  };
  return a.heads.width == 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 128>{});
}

}  // namespace grpo_cuda
