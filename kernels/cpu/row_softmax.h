// The softmax of one row of logits, and nothing else of it stays in memory: its maximum, its sum and its mean logit
// give log-sum-exp, entropy and the log-prob of any token (NUMERICS section 1). `token_log_probs` and `sample` both
// call row_statistics(), so that a sampled token's log-prob has the bits that training recomputes.
//
// A row is cut into chunks of kRowChunk logits. A chunk stays in the first-level cache while it is read twice, for its
// maximum and for its sums; chunks are joined in order, in double. Where the cuts are depends on nothing but the row's
// length, so neither other rows nor the number of threads change a bit.
//
// Included once by each file of kernels/cpu/isa/, after simd.h.
#pragma once

#include "../common/softmax_statistics.h"

constexpr int64_t kRowChunk = 4096;
constexpr float kLowestExponent = -125.0f;  // of two; below it a power counts as 0

// ---- functions ----

// exp for x <= 0 or a rounding error above: at most 1.5 ulp off, 0 below -86.6, NaN stays NaN. vexp without what only
// large arguments need.
SIMD vfloat vexp_nonpositive(vfloat x) {
  const vfloat lowest = vset(-86.6f);
  const ExpParts e = exp_parts(vmax(lowest, x));  // NaN passes
#if defined(GRPO_ISA_AVX512)
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)lowest, _CMP_NLT_UQ);
  return (vfloat)_mm512_maskz_scalef_ps(kept, (__m512)e.fraction, (__m512)e.n);
#else
  const vfloat scaled = e.fraction * as_float((as_int(e.shifted) + 127) << 23);
  return x < lowest ? vset(0.0f) : scaled;
#endif
}

// 2^x for lowest < x <= 0 or a rounding error above, 0 for x = lowest; NaN stays NaN. The loops over logits use it with
// x = d log2 e: the reduction is then exact, and runs on the adders while the multipliers are the limit. What rounding
// x costs is at most 2^-24 |x| of a term that is 2^x of the sum.

SIMD vfloat vexp2_nonpositive(vfloat x) {
  const vfloat shift = vset(12582912.0f);
  const vfloat shifted = x + shift;
  const vfloat n = shifted - shift, r = x - n;
  vfloat p = vset(1.535331e-4f);  // minimax on [-1/2, 1/2]
  p = vfma(p, r, vset(1.3398939e-3f));
  p = vfma(p, r, vset(9.618438e-3f));
  p = vfma(p, r, vset(5.5503324e-2f));
  p = vfma(p, r, vset(2.4022648e-1f));
  p = vfma(p, r, vset(6.931472e-1f));
  p = vfma(p, r, vset(1.0f));
#if defined(GRPO_ISA_AVX512)
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)vset(kLowestExponent), _CMP_NLE_UQ);
  return (vfloat)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)n);
#else
  const vfloat scaled = p * as_float((as_int(shifted) + 127) << 23);
  return x <= kLowestExponent ? vset(0.0f) : scaled;
#endif
}

// tanh, and 1 - tanh^2 without cancellation where tanh is near 1. The polynomial is that of Cephes.
SIMD vfloat vtanh(vfloat y, vfloat* derivative) {
  const vfloat magnitude = as_float(as_int(y) & 0x7fffffff);
  const vfloat u = vexp_nonpositive(magnitude * -2.0f);
  const vfloat inverse = 1.0f / (1.0f + u);
  *derivative = 4.0f * u * inverse * inverse;
  const vfloat s = y * y;
  vfloat p = vset(-5.70498872745e-3f);
  p = vfma(p, s, vset(2.06390887954e-2f));
  p = vfma(p, s, vset(-5.37397155531e-2f));
  p = vfma(p, s, vset(1.33314422036e-1f));
  p = vfma(p, s, vset(-3.33332819422e-1f));
  const vfloat small = vfma(p * s, y, y);
  const vfloat large = as_float(as_int((1.0f - u) * inverse) | (as_int(y) & static_cast<int32_t>(0x80000000)));
  return vselect(magnitude < 0.625f, small, large);
}

SIMD vfloat vsoftcap(vfloat logit, float cap, vfloat* derivative) { return cap * vtanh(logit / cap, derivative); }

// One logit after the soft cap, to the bits that the vector loops give it.
template <class T>
static inline float capped_logit(T logit, const RowTransform& transform) {
  if (transform.softcap == 0.0f) return to_float(logit);
  vfloat derivative;
  return vsoftcap(vset(to_float(logit)), transform.softcap, &derivative)[0];
}

static inline float softcap_derivative(float logit, float softcap) {
  vfloat derivative = vset(1.0f);
  if (softcap != 0.0f) vsoftcap(vset(logit), softcap, &derivative);
  return derivative[0];
}

// ---- statistics ----

// The first n <= kWidth logits as a vector, -inf beyond.
template <class T>
SIMD vfloat load_logits(const T* x, int64_t n) {
  return n >= kWidth ? vload(x) : vload_part(x, static_cast<int>(n), -__builtin_inff());
}

// The soft cap of n <= kRowChunk logits, and what it multiplies their gradient by. Writes whole vectors.
template <class T>
static inline void cap_chunk(const T* x, int64_t n, float softcap, float* capped, float* derivative) {
  for (int64_t i = 0; i < n; i += kWidth) {
    vfloat slope;
    vstore(capped + i, vsoftcap(load_logits(x + i, n - i), softcap, &slope));
    vstore(derivative + i, slope);
  }
}

// Four vectors a step, each with its own accumulator, hide the latency of exp.
template <bool kEntropy, class T>
static inline RowStatistics chunk_statistics(const T* x, int64_t n, float inverse_temperature) {
  constexpr int kStep = 4 * kWidth;
  const int64_t whole = n / kStep * kStep;

  vfloat max0 = vset(-__builtin_inff()), max1 = max0, max2 = max0, max3 = max0;
  for (int64_t i = 0; i < whole; i += kStep) {
    max0 = vmax(max0, vload(x + i));
    max1 = vmax(max1, vload(x + i + kWidth));
    max2 = vmax(max2, vload(x + i + 2 * kWidth));
    max3 = vmax(max3, vload(x + i + 3 * kWidth));
  }
  for (int64_t i = whole; i < n; i += kWidth) max0 = vmax(max0, load_logits(x + i, n - i));
  const float max = reduce_max(vmax(vmax(max0, max1), vmax(max2, max3)));

  const vfloat shift = vset(max == -__builtin_inff() ? 0.0f : max), scale = vset(inverse_temperature * kLog2e);
  vfloat sum[4] = {}, weighted[4] = {};
  const auto add = [&](vfloat logit, int k) __attribute__((always_inline)) {
    const vfloat x = vmax(vset(kLowestExponent), (logit - shift) * scale);  // NaN passes
    const vfloat e = vexp2_nonpositive(x);
    sum[k] += e;
    if constexpr (kEntropy) weighted[k] = vfma(e, x, weighted[k]);
  };
  for (int64_t i = 0; i < whole; i += kStep) {
    // The next chunk comes from memory while this one is computed on.
    for (size_t line = 0; line < kStep * sizeof(T); line += 64)
      __builtin_prefetch(reinterpret_cast<const char*>(x + i + kRowChunk) + line);
    add(vload(x + i), 0);
    add(vload(x + i + kWidth), 1);
    add(vload(x + i + 2 * kWidth), 2);
    add(vload(x + i + 3 * kWidth), 3);
  }
  for (int64_t i = whole; i < n; i += kWidth) add(load_logits(x + i, n - i), 0);
  return {max, reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3])),
          kLn2 * reduce_add((weighted[0] + weighted[1]) + (weighted[2] + weighted[3]))};
}

// Statistics of one chunk, n <= kRowChunk logits. `weighted` is only computed with kEntropy; the rest has the same
// bits.
template <bool kEntropy, class T>
static inline RowStatistics chunk_statistics(const T* x, int64_t n, const RowTransform& transform) {
  if (transform.softcap == 0.0f) return chunk_statistics<kEntropy>(x, n, transform.inverse_temperature);
  alignas(64) float capped[kRowChunk], derivative[kRowChunk];
  cap_chunk(x, n, transform.softcap, capped, derivative);
  return chunk_statistics<kEntropy>(capped, n, transform.inverse_temperature);
}

template <bool kEntropy, class T>
static inline RowStatistics row_statistics(const T* row, int64_t n, const RowTransform& transform) {
  RowStatistics all = empty_row();
  for (int64_t begin = 0; begin < n; begin += kRowChunk) {
    const int64_t length = n - begin < kRowChunk ? n - begin : kRowChunk;
    all =
        join_statistics(all, chunk_statistics<kEntropy>(row + begin, length, transform), transform.inverse_temperature);
  }
  return all;
}
