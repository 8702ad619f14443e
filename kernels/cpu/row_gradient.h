// The gradient of one row of logits for upstream gradients on its log-prob and its entropy (NUMERICS section 1), a
// chunk at a time, possibly in place. Included once by each file of kernels/cpu/isa/, after row_softmax.h.
#pragma once

// Stores past the caches, where a vector is aligned and the row is not read again soon.
SIMD void vstream(float* p, vfloat x) {
#if defined(GRPO_ISA_AVX512)
  _mm512_stream_ps(p, (__m512)x);
#elif defined(GRPO_ISA_AVX2)
  _mm256_stream_ps(p, (__m256)x);
#else
  vstore(p, x);
#endif
}
#if defined(GRPO_ISA_AVX512)
SIMD __m256i round_to(f16*, vfloat x) { return _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT); }
SIMD __m256i round_to(bf16*, vfloat x) { return (__m256i)round_to_bf16(x); }
#elif defined(GRPO_ISA_AVX2)
SIMD __m128i round_to(f16*, vfloat x) { return _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT); }
SIMD __m128i round_to(bf16*, vfloat x) { return (__m128i)round_to_bf16(x); }
#endif
template <class T>
SIMD void vstream(T* p, vfloat x) {
#if defined(GRPO_ISA_AVX512)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)round_to(p, x));
#elif defined(GRPO_ISA_AVX2)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)round_to(p, x));
#else
  vstore(p, x);
#endif
}
// Makes streamed stores visible to other threads.
static inline void finish_streams() {
#if defined(GRPO_ISA_AVX512) || defined(GRPO_ISA_AVX2)
  _mm_sfence();
#endif
}
template <class T>
static inline bool can_stream(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kWidth * sizeof(T)) == 0;
}

// Writes the softmax part of the gradient of n <= kRowChunk logits and returns its sum, without the element `target`
// (an index into the chunk, or anything outside it). `derivative`, when given, is what the soft cap multiplies by; the
// sum is taken before.
template <bool kStream, class T, class U>
static inline double chunk_gradient(const T* x, U* out, int64_t n, int64_t target, const RowGradient& row,
                                    const float* derivative) {
  const vfloat shift = vset(row.shift), scale = vset(row.inverse_temperature * kLog2e);
  const vfloat slope = vset(static_cast<float>(row.slope * kLn2)), intercept = vset(row.intercept);
  vfloat sum[4] = {};
  const auto element = [&](vfloat logit) __attribute__((always_inline)) {
    const vfloat x = vmax(vset(kLowestExponent), (logit - shift) * scale);  // exp is 0 there; 0 * inf is not
    return vexp2_nonpositive(x) * vfma(x, slope, intercept);
  };
  const auto write = [&](int64_t i, vfloat y) __attribute__((always_inline)) {
    if (derivative) y *= vload(derivative + i);
    if constexpr (kStream)
      vstream(out + i, y);
    else
      vstore(out + i, y);
  };
  const auto range = [&](int64_t i, int64_t end) __attribute__((always_inline)) {
    for (; i + 4 * kWidth <= end; i += 4 * kWidth) {
      for (size_t line = 0; line < 4 * kWidth * sizeof(T); line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(x + i + kRowChunk) + line);
      for (int k = 0; k < 4; ++k) {
        const vfloat y = element(vload(x + i + k * kWidth));
        sum[k] += y;
        write(i + k * kWidth, y);
      }
    }
    for (; i + kWidth <= end; i += kWidth) {
      const vfloat y = element(vload(x + i));
      sum[0] += y;
      write(i, y);
    }
  };
  const auto without = [](vfloat y, int64_t lane) {
    if (lane >= 0 && lane < kWidth) y[lane] = 0.0f;
    return y;
  };

  const int64_t whole = n / kWidth * kWidth;
  if (target >= 0 && target < whole) {
    const int64_t at = target / kWidth * kWidth;
    range(0, at);
    const vfloat y = element(vload(x + at));
    sum[0] += without(y, target - at);
    write(at, y);
    range(at + kWidth, whole);
  } else {
    range(0, whole);
  }
  if (whole < n) {
    const int rest = static_cast<int>(n - whole);
    vfloat y = element(load_logits(x + whole, rest));
    sum[0] += without(y, target - whole);
    if (derivative) y *= vload_part(derivative + whole, rest);
    vstore_part(out + whole, rest, y);
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class T, class U>
static inline double chunk_gradient(const T* x, U* out, int64_t n, int64_t target, const RowGradient& row,
                                    float softcap, bool stream) {
  if (softcap == 0.0f) {
    return stream && can_stream(out) ? chunk_gradient<true>(x, out, n, target, row, nullptr)
                                     : chunk_gradient<false>(x, out, n, target, row, nullptr);
  }
  alignas(64) float capped[kRowChunk], derivative[kRowChunk];
  cap_chunk(x, n, softcap, capped, derivative);
  return chunk_gradient<false>(capped, out, n, target, row, derivative);
}

// The target's own element. A whole row's gradient sums to zero, which gives g * (1 - p) without the cancellation that
// ruins it where p is near 1; `others` is the sum over the rest of the row.
template <class T, class U>
static inline void write_target(const T logit, U* out, double others, const RowTransform& transform) {
  *out = from_float<U>(static_cast<float>(-others) * softcap_derivative(to_float(logit), transform.softcap));
}
