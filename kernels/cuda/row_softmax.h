// The softmax of one row of logits by one block, and nothing else of it stays in memory (NUMERICS section 1).
// `token_log_probs` and `sample` share it, so that a sampled token's log-prob has the bits that training recomputes.
//
// A row is cut into parts whose number depends on its length only; a part is read once. Each thread keeps a running
// maximum, sum and weighted sum of its logits in float32; they are joined in a fixed order, within a part in float32,
// across parts in float64. Neither other rows nor the number of blocks that share a row change a bit.
#pragma once

#include "launch.h"
#include "reduce.h"
#include "storage.h"
// clang-format off
#include "../common/softmax_statistics.h"
// clang-format on

namespace grpo_cuda {

constexpr int kRowThreads = 256;
constexpr int kMostParts = 8;
constexpr int64_t kLeastPart = 8192;  // logits; smaller parts cost more to join than they gain

// How a row of `columns` logits is cut: a multiple of 16 bytes whatever the dtype, so that all parts are aligned alike.
struct RowParts {
  int count;
  int64_t length;
};
inline RowParts row_parts(int64_t columns) {
  const int64_t count = std::max<int64_t>(1, std::min<int64_t>(kMostParts, columns / kLeastPart));
  const int64_t length = ceil_divide(ceil_divide(columns, count), 8 * kRowThreads) * 8 * kRowThreads;
  return {static_cast<int>(std::max<int64_t>(1, ceil_divide(columns, length))), length};
}

__device__ __forceinline__ float capped_logit(float logit, float softcap) {
  return softcap == 0.0f ? logit : softcap * tanhf(logit / softcap);
}
// 1 - tanh^2, without cancellation where tanh is near 1.
__device__ __forceinline__ float softcap_derivative(float logit, float softcap) {
  if (softcap == 0.0f) return 1.0f;
  const float u = expf(-2.0f * fabsf(logit / softcap)), inverse = 1.0f / (1.0f + u);
  return 4.0f * u * inverse * inverse;
}

// d log2 e of a logit, and exp(d); 0 where it is beneath the floats, NaN stays NaN.
__device__ __forceinline__ float row_exponent(float logit, float shift, float scale) {
  const float x = (logit - shift) * scale;
  return x < kLowestExponent ? kLowestExponent : x;
}
__device__ __forceinline__ float row_power(float exponent) {
  return exponent <= kLowestExponent ? 0.0f : exp2f(exponent);
}

// RowStatistics of a thread: sums of 2^x and 2^x x with x = (logit - max) * inverse_temperature * log2 e.
struct LaneStatistics {
  float max, sum, weighted;
};

__device__ __forceinline__ LaneStatistics empty_lane() { return {-INFINITY, 0.0f, 0.0f}; }

// The statistics against another maximum, which is not lower.
__device__ __forceinline__ LaneStatistics shift_lane(const LaneStatistics& s, float max, float scale) {
  if (s.max == max || s.max == -INFINITY) return {max, s.sum, s.weighted};
  const float x = row_exponent(s.max, max, scale), factor = row_power(x);
  return {max, s.sum * factor, (s.weighted + s.sum * x) * factor};
}

struct JoinLanes {
  float scale;
  __device__ __forceinline__ LaneStatistics operator()(const LaneStatistics& a, const LaneStatistics& b) const {
    const float max = a.max > b.max ? a.max : b.max;
    const LaneStatistics x = shift_lane(a, max, scale), y = shift_lane(b, max, scale);
    return {max, x.sum + y.sum, x.weighted + y.weighted};
  }
};

// Adds N logits at once: one shift for all of them.
template <bool kEntropy, int N>
__device__ __forceinline__ void add_logits(LaneStatistics& s, const float (&logits)[N], float scale) {
  float max = s.max;
#pragma unroll
  for (int i = 0; i < N; ++i) max = logits[i] > max ? logits[i] : max;
  s = shift_lane(s, max, scale);
  const float shift = max == -INFINITY ? 0.0f : max;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = row_exponent(logits[i], shift, scale), e = row_power(x);
    s.sum += e;
    if constexpr (kEntropy) s.weighted += e * x;
  }
}

// many(i, logits) for N = 16 / sizeof(T) adjacent logits from i on, one(i, logit) for those at the end: each thread its
// share of [begin, end) of a row, the same whether the row can be read in 16 bytes (`aligned`) or not.
template <class T, class Many, class One>
__device__ __forceinline__ void for_logits(const T* row, int64_t begin, int64_t end, bool aligned, const Many& many,
                                           const One& one) {
  constexpr int kPack = Pack<T>::kSize;
  const int64_t packs = (end - begin) / kPack;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
    const T* from = row + begin + i * kPack;
    Pack<T> pack;
    if (aligned) {
      pack = *reinterpret_cast<const Pack<T>*>(from);
    } else {
#pragma unroll
      for (int k = 0; k < kPack; ++k) pack.item[k] = from[k];
    }
    float logits[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) logits[k] = to_float(pack.item[k]);
    many(begin + i * kPack, logits);
  }
  for (int64_t i = begin + packs * kPack + threadIdx.x; i < end; i += kRowThreads) {
    const float logit[1] = {to_float(row[i])};
    one(i, logit);
  }
}

// Statistics of a thread's share of [begin, end) of a row. `weighted` is only computed with kEntropy; the rest has the
// same bits.
template <bool kEntropy, class T>
__device__ LaneStatistics lane_statistics(const T* row, int64_t begin, int64_t end, bool aligned,
                                          const RowTransform& transform) {
  const float scale = transform.inverse_temperature * kLog2e;
  LaneStatistics s = empty_lane();
  const auto add = [&](int64_t, auto& logits) {
    if (transform.softcap != 0.0f) {
      for (float& logit : logits) logit = capped_logit(logit, transform.softcap);
    }
    add_logits<kEntropy>(s, logits, scale);
  };
  const auto add_one = [&](int64_t, const float(&logit)[1]) {
    const float capped[1] = {capped_logit(logit[0], transform.softcap)};
    add_logits<kEntropy>(s, capped, scale);
  };
  for_logits(row, begin, end, aligned, add, add_one);
  return s;
}

// The statistics of all threads of the block joined, in each of them.
__device__ __forceinline__ RowStatistics join_block(LaneStatistics s, const RowTransform& transform) {
  s = block_reduce<kRowThreads>(s, JoinLanes{transform.inverse_temperature * kLog2e});
  return {s.max, s.sum, s.weighted * kLn2};
}

template <bool kEntropy, class T>
__device__ RowStatistics part_statistics(const T* row, int64_t begin, int64_t end, bool aligned,
                                         const RowTransform& transform) {
  return join_block(lane_statistics<kEntropy>(row, begin, end, aligned, transform), transform);
}

// Statistics of a whole row by one block.
template <bool kEntropy, class T>
__device__ RowStatistics row_statistics(const T* row, int64_t columns, bool aligned, const RowParts& parts,
                                        const RowTransform& transform) {
  RowStatistics all = empty_row();
  for (int part = 0; part < parts.count; ++part) {
    const int64_t begin = part * parts.length, end = min(columns, begin + parts.length);
    all = join_statistics(all, part_statistics<kEntropy>(row, begin, end, aligned, transform),
                          transform.inverse_temperature);
  }
  return all;
}

}  // namespace grpo_cuda
