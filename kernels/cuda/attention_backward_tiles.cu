// attention_backward in tiles on tensor cores (attention_backward_rows.h has the formulas): first the gradients of
// queries, 64 head rows a block, which meet the keys; then those of keys and values, 64 a block, which meet the head
// rows that see them. Nothing is added up by atomics. Sums are float32; the weights and the gradients of scores are
// rounded to bf16 for the products that they are factors of.

#include "attention_backward_rows.h"
#include "attention_tiles.h"

namespace grpo_cuda {

namespace {

constexpr int kBackwardRows = 32;  // of a tile that passes by

__device__ __forceinline__ const bf16* elements(const FloatRows& rows) { return static_cast<const bf16*>(rows.data); }

// What a row's scores, kept as powers of two, are shifted by to be weights; a row without finite scores has none.
__device__ __forceinline__ float weight_shift(float log_sum_exp) {
  return log_sum_exp == -INFINITY ? INFINITY : log_sum_exp * kLog2E;
}

// Registers: sums 64 (heads of 128), scores and their gradients 32, with three blocks on a multiprocessor 168.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads, 3) grad_queries_tiles_kernel(BackwardKernel a) {
  constexpr int kKeys = kBackwardRows;
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y, warp = threadIdx.y;
  const SequenceTile part = sequence_tile(a.sequences, gridDim.x - 1 - blockIdx.x, group);
  if (part.first >= part.length) return;
  bf16* const shared = dynamic_shared<bf16>();
  const Tile<kWidth> queries = {shared}, grad_out = {shared + kHeldRows * kWidth};
  const auto keys = [&](int t) { return Tile<kWidth>{shared + (2 * kHeldRows + t % 2 * 2 * kKeys) * kWidth}; };
  const auto values = [&](int t) { return Tile<kWidth>{shared + (2 * kHeldRows + (t % 2 * 2 + 1) * kKeys) * kWidth}; };
  auto* const deltas = reinterpret_cast<float*>(shared + (2 * kHeldRows + 4 * kKeys) * kWidth);

  const int last = min(part.first + kHeldRows, part.length) - 1;
  const int seen_by_first = part.parent_length + part.first / group + 1;
  const int seen_by_last = part.parent_length + last / group + 1, tiles = (seen_by_last + kKeys - 1) / kKeys;
  const auto fetch = [&](int t) {
    const auto row = [&](const FloatRows& rows, int i) {
      const int key = t * kKeys + i;
      return key < seen_by_last ? part.key_row(key) * rows.stride + int64_t{key_head} * kWidth : -1;
    };
    keys(t).template fetch<kKeys>(elements(a.keys), [&](int i) { return row(a.keys, i); });
    values(t).template fetch<kKeys>(elements(a.values), [&](int i) { return row(a.values, i); });
  };
  const auto own_row = [&](const FloatRows& rows, int i) {
    const int at = part.first + i, head = key_head * group + at % group;
    return at < part.length ? (part.start + at / group) * rows.stride + int64_t{head} * kWidth : -1;
  };
  queries.template fetch<kHeldRows>(elements(a.queries), [&](int i) { return own_row(a.queries, i); });
  grad_out.template fetch<kHeldRows>(elements(a.grad_out), [&](int i) { return own_row(a.grad_out, i); });
  fetch(0);

  // delta = dO . o of the held rows: four elements a lane at a time.
  constexpr int kLanes = kWidth / 4;
  for (int i = (warp * kWarp + threadIdx.x) / kLanes; i < kHeldRows; i += kTileThreads / kLanes) {
    const int at = part.first + i, head = key_head * group + at % group, column = threadIdx.x % kLanes * 4;
    const int64_t row = part.start + at / group;
    float delta = 0.0f;
    if (at < part.length) {
      const Floats<4> x = a.grad_out.load<4>(row, int64_t{head} * kWidth + column);
      const Floats<4> y = a.out.load<4>(row, int64_t{head} * kWidth + column);
#pragma unroll
      for (int k = 0; k < 4; ++k) delta += x.item[k] * y.item[k];
    }
#pragma unroll
    for (int distance = kLanes / 2; distance > 0; distance /= 2) delta += shuffle_xor(delta, distance);
    if (threadIdx.x % kLanes == 0) {
      deltas[i] = delta;
      if (at < part.length) a.delta[row * a.heads.query_heads + head] = delta;
    }
  }

  const float scale = a.scale * kLog2E;
  int seen[2];  // how many keys a lane's two rows see
  float shift[2], delta[2], grad[kWidth / 8][4] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = min(part.first + 16 * warp + row_of(2 * i), last), head = key_head * group + at % group;
    seen[i] = part.parent_length + at / group + 1;
    shift[i] = weight_shift(a.log_sum_exp[(part.start + at / group) * a.log_sum_exp_stride + head]);
  }
  for (int t = 0; t < tiles; ++t) {
    wait_for_copies();
    __syncthreads();  // this tile is there, and everybody has done with the one before
    if (t + 1 < tiles) fetch(t + 1);
    if (t == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) delta[i] = deltas[16 * warp + row_of(2 * i)];
    }
    float weights[kKeys / 8][4], grad_scores[kKeys / 8][4];
    dot_rows<kKeys>(
        weights, [&](unsigned(&rows)[4], int step) { queries.left(rows, 16 * warp, step); }, keys(t));
    dot_rows<kKeys>(
        grad_scores, [&](unsigned(&rows)[4], int step) { grad_out.left(rows, 16 * warp, step); }, values(t));
    const bool all_seen = (t + 1) * kKeys <= seen_by_first;
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float weight = fast_exp2(weights[n][e] * scale - shift[e / 2]);
        const bool is_seen = all_seen || t * kKeys + 8 * n + column_of(e) < seen[e / 2];
        grad_scores[n][e] = is_seen ? weight * (grad_scores[n][e] - delta[e / 2]) : 0.0f;
      }
    }
    add_rows<kKeys>(grad, grad_scores, keys(t));
  }

  bool not_finite[2] = {};
  note_not_finite<kWidth>(not_finite, grad);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = part.first + 16 * warp + row_of(2 * i), head = key_head * group + at % group;
    not_finite[i] = not_finite[i] && at < part.length;
    if (at >= part.length) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      a.grad_queries.store<2>(part.start + at / group, int64_t{head} * kWidth + 8 * n + column_of(0),
                              {{grad[n][2 * i] * a.scale, grad[n][2 * i + 1] * a.scale}});
    }
  }
  // The warp's own queries are not read any more.
  auto* const own = reinterpret_cast<float*>(queries.data + 16 * warp * kWidth);
  for_not_finite(not_finite, [&](int i) {
    const int at = part.first + 16 * warp + i;
    grad_queries_row<kWidth / kWarp, 4>(a, part.start + at / group, key_head * group + at % group, own);
  });
}

// The head rows that see a tile of keys, kRows at a time: those of its own sequence from its first token on, then all
// of the sequences that continue it.
template <int kRows>
struct SeeingRows {
  int64_t sequence, start;
  int first, end;  // head rows of the sequence
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
      end = static_cast<int>(s.offsets[sequence + 1] - start) * group;
    }
    return true;
  }
};

// Registers: sums 128 (heads of 128), scores and their gradients 32: with two blocks on a multiprocessor 255.
template <int kWidth>
__global__ void __launch_bounds__(kTileThreads, kWidth == 64 ? 3 : 2) grad_keys_tiles_kernel(BackwardKernel a) {
  constexpr int kRows = kBackwardRows;
  const int group = static_cast<int>(a.heads.group), key_head = blockIdx.y, warp = threadIdx.y;
  // The first keys of a sequence are seen by the most rows: they begin first.
  const SequenceTile part = sequence_tile(a.sequences, blockIdx.x, 1);
  if (part.first >= part.length) return;
  bf16* const shared = dynamic_shared<bf16>();
  const Tile<kWidth> keys = {shared}, values = {shared + kHeldRows * kWidth};
  const auto queries = [&](int t) { return Tile<kWidth>{shared + (2 * kHeldRows + t % 2 * 2 * kRows) * kWidth}; };
  const auto grad_out = [&](int t) {
    return Tile<kWidth>{shared + (2 * kHeldRows + (t % 2 * 2 + 1) * kRows) * kWidth};
  };
  auto* const numbers = reinterpret_cast<float*>(shared + (2 * kHeldRows + 4 * kRows) * kWidth);
  const auto shifts = [&](int t) { return numbers + t % 2 * 2 * kRows; };
  const auto deltas = [&](int t) { return numbers + (t % 2 * 2 + 1) * kRows; };

  const auto own_row = [&](const FloatRows& rows, int i) {
    const int key = part.first + i;
    return key < part.length ? (part.start + key) * rows.stride + int64_t{key_head} * kWidth : -1;
  };
  keys.template fetch<kHeldRows>(elements(a.keys), [&](int i) { return own_row(a.keys, i); });
  values.template fetch<kHeldRows>(elements(a.values), [&](int i) { return own_row(a.values, i); });
  const auto fetch = [&](const SeeingRows<kRows>& rows, int t) {
    const auto row = [&](const FloatRows& from, int i) {
      const int at = rows.first + i, head = key_head * group + at % group;
      return at < rows.end ? (rows.start + at / group) * from.stride + int64_t{head} * kWidth : -1;
    };
    queries(t).template fetch<kRows>(elements(a.queries), [&](int i) { return row(a.queries, i); });
    grad_out(t).template fetch<kRows>(elements(a.grad_out), [&](int i) { return row(a.grad_out, i); });
    const int i = warp * kWarp + threadIdx.x;
    if (i < kRows) {
      const int at = rows.first + i, head = key_head * group + at % group;
      const int64_t token = rows.start + at / group;
      const bool valid = at < rows.end;
      shifts(t)[i] = valid ? weight_shift(a.log_sum_exp[token * a.log_sum_exp_stride + head]) : INFINITY;
      deltas(t)[i] = valid ? a.delta[token * a.heads.query_heads + head] : 0.0f;
    }
  };

  const float scale = a.scale * kLog2E;
  float grad_keys[kWidth / 8][4] = {}, grad_values[kWidth / 8][4] = {};
  SeeingRows<kRows> rows = {part.sequence, part.start, part.first * group, part.length * group, true};
  fetch(rows, 0);
  bool more = true;
  for (int t = 0; more; ++t) {
    wait_for_copies();
    __syncthreads();  // this tile is there, and everybody has done with the one before
    SeeingRows<kRows> following = rows;
    more = following.next(a.sequences, part, group);
    if (more) fetch(following, t + 1);
    float weights[kRows / 8][4], grad_scores[kRows / 8][4];
    dot_rows<kRows>(
        weights, [&](unsigned(&held)[4], int step) { keys.left(held, 16 * warp, step); }, queries(t));
    dot_rows<kRows>(
        grad_scores, [&](unsigned(&held)[4], int step) { values.left(held, 16 * warp, step); }, grad_out(t));
    // The first head row that sees each of the lane's two keys.
    const bool all_see = !rows.own || rows.first >= (part.first + kHeldRows - 1) * group;
    int seen_from[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      seen_from[i] = all_see ? 0 : (part.first + 16 * warp + row_of(2 * i)) * group - rows.first;
    }
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = 8 * n + column_of(e);
        const bool sees = column >= seen_from[e / 2];
        const float weight = sees ? fast_exp2(weights[n][e] * scale - shifts(t)[column]) : 0.0f;
        grad_scores[n][e] = sees ? weight * (grad_scores[n][e] - deltas(t)[column]) : 0.0f;
        weights[n][e] = weight;
      }
    }
    add_rows<kRows>(grad_values, weights, grad_out(t));
    add_rows<kRows>(grad_keys, grad_scores, queries(t));
    rows = following;
  }

  bool not_finite[2] = {};
  note_not_finite<kWidth>(not_finite, grad_keys);
  note_not_finite<kWidth>(not_finite, grad_values);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int key = part.first + 16 * warp + row_of(2 * i);
    not_finite[i] = not_finite[i] && key < part.length;
    if (key >= part.length) continue;
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
      const int64_t column = int64_t{key_head} * kWidth + 8 * n + column_of(0);
      a.grad_keys.store<2>(part.start + key, column,
                           {{grad_keys[n][2 * i] * a.scale, grad_keys[n][2 * i + 1] * a.scale}});
      a.grad_values.store<2>(part.start + key, column, {{grad_values[n][2 * i], grad_values[n][2 * i + 1]}});
    }
  }
  // The warp's own keys are not read any more.
  auto* const own = reinterpret_cast<float*>(keys.data + 16 * warp * kWidth);
  for_not_finite(not_finite, [&](int i) {
    grad_keys_row<kWidth / kWarp, 4>(a, part.start + part.first + 16 * warp + i, key_head, own);
  });
}

}  // namespace

grpo_status attention_backward_tiles(grpo_context& context, const BackwardKernel& a) {
  const auto run = [&](auto width) {
    constexpr int kWidth = decltype(width)::value, kPassing = kBackwardRows;
    constexpr int kRows = 2 * kHeldRows + 4 * kPassing;
    const auto launch_of = [&](int64_t per_token, int floats) {
      return tile_launch(a.heads, a.rows, a.sequences.count, per_token, kRows, floats);
    };
    if (auto status = launch(context, grad_queries_tiles_kernel<kWidth>, launch_of(a.heads.group, kHeldRows), a)) {
      return status;
    }
    return launch(context, grad_keys_tiles_kernel<kWidth>, launch_of(1, 4 * kPassing), a);
  };
  return a.heads.width == 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 128>{});
}

}  // namespace grpo_cuda
