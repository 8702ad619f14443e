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

// d log2 e of a logit, whose fast_exp2() is exp(d): finite also for a logit of -inf, where the power is 0. NaN stays
// NaN.
constexpr float kNoPower = -150.0f;
__device__ __forceinline__ float row_exponent(float logit, float shift, float scale) {
  const float x = (logit - shift) * scale;
  return x < kNoPower ? kNoPower : x;
}

// RowStatistics of a thread: sums of 2^x and 2^x x with x = (logit - max) * inverse_temperature * log2 e.
struct LaneStatistics {
  float max, sum, weighted;
};

__device__ __forceinline__ LaneStatistics empty_lane() { return {-INFINITY, 0.0f, 0.0f}; }

// The statistics against another maximum, which is not lower.
__device__ __forceinline__ LaneStatistics shift_lane(const LaneStatistics& s, float max, float scale) {
  if (s.max == max || s.max == -INFINITY) return {max, s.sum, s.weighted};
  const float x = row_exponent(s.max, max, scale), factor = fast_exp2(x);
  return {max, s.sum * factor, (s.weighted + s.sum * x) * factor};
}

// Adds N logits at once: one shift for all of them.
template <bool kEntropy, int N>
__device__ __forceinline__ void add_logits(LaneStatistics& s, const float (&logits)[N], float scale) {
  float max = s.max;
#pragma unroll
  for (int i = 0; i < N; ++i) max = fmaxf(max, logits[i]);  // passes over NaN
  s = shift_lane(s, max, scale);
  const float shift = max == -INFINITY ? 0.0f : max;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float x = row_exponent(logits[i], shift, scale), e = fast_exp2(x);
    s.sum += e;
    if constexpr (kEntropy) s.weighted = fmaf(e, x, s.weighted);
  }
}

// How far apart in a row the packs are that a thread reads together.
template <class T>
constexpr int kPackStep = kRowThreads* Pack<T>::kSize;

// many(first, packs) for kCount packs of logits, the first at `first` and each of the others kPackStep further.
template <int kCount, class T, class Many>
__device__ __forceinline__ void take_packs(const T* row, int64_t first, bool aligned, const Many& many) {
  constexpr int kPack = Pack<T>::kSize;
  Pack<T> packs[kCount];
  if (aligned) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) packs[n] = *reinterpret_cast<const Pack<T>*>(row + first + n * kPackStep<T>);
  } else {
#pragma unroll
    for (int i = 0; i < kCount * kPack; ++i)
      packs[i / kPack].item[i % kPack] = row[first + i / kPack * kPackStep<T> + i % kPack];
  }
  many(first, packs);
}

// Each thread its share of [begin, end) of a row, the same whether the row can be read in 16 bytes (`aligned`) or not:
// packs as take_packs() has them, kAhead (2 or 4) at a time, so that as many loads are in flight, then what remains;
// one(i, logit) for the logits at the end.
template <int kAhead, class T, class Many, class One>
__device__ __forceinline__ void for_logits(const T* row, int64_t begin, int64_t end, bool aligned, const Many& many,
                                           const One& one) {
  constexpr int kPack = Pack<T>::kSize, kStep = kPackStep<T>;
  const int64_t end_of_packs = begin + (end - begin) / kPack * kPack;
  int64_t i = begin + threadIdx.x * kPack;
#pragma unroll 1
  for (; i + (kAhead - 1) * kStep < end_of_packs; i += kAhead * kStep) take_packs<kAhead>(row, i, aligned, many);
  if constexpr (kAhead == 4) {
    if (i + kStep < end_of_packs) {
      take_packs<2>(row, i, aligned, many);
      i += 2 * kStep;
    }
  }
  if (i < end_of_packs) take_packs<1>(row, i, aligned, many);
  for (i = end_of_packs + threadIdx.x; i < end; i += kRowThreads) one(i, to_float(row[i]));
}

// Statistics of a thread's share of [begin, end) of a row. `weighted` is only computed with kEntropy; the rest has the
// same bits.
template <bool kEntropy, class T>
__device__ LaneStatistics lane_statistics(const T* row, int64_t begin, int64_t end, bool aligned,
                                          const RowTransform& transform) {
  const float scale = transform.inverse_temperature * kLog2e;
  LaneStatistics s = empty_lane();
  const auto add = [&]<int kCount>(int64_t, const Pack<T>(&packs)[kCount]) {
    constexpr int kPack = Pack<T>::kSize;
    float logits[kCount * kPack];
#pragma unroll
    for (int i = 0; i < kCount * kPack; ++i) logits[i] = packs[i / kPack][i % kPack];
    if (transform.softcap != 0.0f) {
      for (float& logit : logits) logit = capped_logit(logit, transform.softcap);
    }
    add_logits<kEntropy>(s, logits, scale);
  };
  const auto add_one = [&](int64_t, float logit) {
    const float capped[1] = {capped_logit(logit, transform.softcap)};
    add_logits<kEntropy>(s, capped, scale);
  };
  for_logits<4>(row, begin, end, aligned, add, add_one);
  return s;
}

// What threads whose maximum is the same add up.
struct LaneSums {
  float sum, weighted;

  __device__ __forceinline__ LaneSums operator+(const LaneSums& other) const {
    return {sum + other.sum, weighted + other.weighted};
  }
};

// The statistics of all threads of the block joined, in each of them: against one maximum first, which takes each
// thread one power.
__device__ __forceinline__ RowStatistics join_block(const LaneStatistics& own, const RowTransform& transform) {
  constexpr int kWarps = kRowThreads / kWarp;
  __shared__ float maxima[kWarps];
  __shared__ LaneSums sums[kWarps];
  const int warp = threadIdx.x / kWarp;
  float max = warp_reduce<Max>(own.max);
  if (threadIdx.x % kWarp == 0) maxima[warp] = max;
  __syncthreads();  // the last use of `sums` has ended, too
  max = maxima[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) max = Max{}(max, maxima[i]);
  const LaneStatistics s = shift_lane(own, max, transform.inverse_temperature * kLog2e);
  LaneSums sum = warp_reduce<Sum>(LaneSums{s.sum, s.weighted});
  if (threadIdx.x % kWarp == 0) sums[warp] = sum;
  __syncthreads();  // and that of `maxima`
  sum = sums[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) sum = sum + sums[i];
  return {max, sum.sum, sum.weighted * kLn2};
}

template <bool kEntropy, class T>
__device__ RowStatistics part_statistics(const T* row, int64_t begin, int64_t end, bool aligned,
                                         const RowTransform& transform) {
  return join_block(lane_statistics<kEntropy>(row, begin, end, aligned, transform), transform);
}

// Statistics of a whole row by one block, in its first thread.
template <bool kEntropy, class T>
__device__ RowStatistics row_statistics(const T* row, int64_t columns, bool aligned, const RowParts& parts,
                                        const RowTransform& transform) {
  __shared__ RowStatistics all;  // registers are short
  if (threadIdx.x == 0) all = empty_row();
  for (int part = 0; part < parts.count; ++part) {
    const int64_t begin = part * parts.length, end = min(columns, begin + parts.length);
    const RowStatistics s = part_statistics<kEntropy>(row, begin, end, aligned, transform);
    if (threadIdx.x == 0) all = join_statistics(all, s, transform.inverse_temperature);
  }
  return threadIdx.x == 0 ? all : empty_row();
}

}  // namespace grpo_cuda
