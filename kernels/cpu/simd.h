// Vectors of kWidth floats for the instruction set that this file is compiled for, and what kernels do with them.
// Included once by each file of kernels/cpu/isa/, inside its namespace and its `#pragma GCC target`; everything here
// has internal linkage or lives in that namespace, so that no code for one instruction set is linked into another's.
//
// Multiplications and additions are contracted to fma only where vfma says so (the build sets -ffp-contract=off): two
// loops over the same numbers in the same order give the same bits whatever their shape.

using vfloat = float __attribute__((vector_size(4 * kWidth)));
using vint = int32_t __attribute__((vector_size(4 * kWidth)));

using vhalf = uint16_t __attribute__((vector_size(2 * kWidth)));
using vhalf_float = float __attribute__((vector_size(2 * kWidth)));
constexpr int kDoubles = kWidth / 2;
using vdouble = double __attribute__((vector_size(4 * kWidth)));
using vuint = uint32_t __attribute__((vector_size(4 * kWidth)));

// Unaligned vectors in memory. Clang sees the alignment of an alias only before the equals sign.
using vfloat_u __attribute__((aligned(4), may_alias)) = vfloat;
using vint_u __attribute__((aligned(4), may_alias)) = vint;
using vhalf_u __attribute__((aligned(2), may_alias)) = vhalf;
using vhalf_float_u __attribute__((aligned(4), may_alias)) = vhalf_float;
static_assert(alignof(vfloat_u) == 4 && alignof(vint_u) == 4 && alignof(vhalf_u) == 2 && alignof(vhalf_float_u) == 4);

#define SIMD static inline __attribute__((always_inline))

SIMD vfloat vset(float x) { return x - vfloat{}; }
SIMD vint vset_int(int32_t x) { return x - vint{}; }
SIMD vfloat as_float(vint x) { return (vfloat)x; }
SIMD vint as_int(vfloat x) { return (vint)x; }
SIMD vfloat vselect(vint mask, vfloat yes, vfloat no) { return mask ? yes : no; }
SIMD vfloat vmax(vfloat a, vfloat b) { return a > b ? a : b; }  // b when either is NaN
SIMD vfloat vmin(vfloat a, vfloat b) { return a < b ? a : b; }

SIMD vfloat vfma(vfloat a, vfloat b, vfloat c) {
#if defined(GRPO_ISA_AVX512)
  return (vfloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(GRPO_ISA_AVX2)
  return (vfloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vfloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// The scalar twin of vfma: the same rounding as one lane of it.
SIMD float sfma(float a, float b, float c) {
#if defined(GRPO_ISA_AVX512) || defined(GRPO_ISA_AVX2) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// ---- sums and maxima over the lanes, always in the same order -------------------------------------------------------

SIMD float reduce_add(vfloat x) {
  float lanes[kWidth];
  *reinterpret_cast<vfloat_u*>(lanes) = x;
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

SIMD float reduce_max(vfloat x) {
  float lanes[kWidth];
  *reinterpret_cast<vfloat_u*>(lanes) = x;
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

// ---- storage types --------------------------------------------------------------------------------------------------

#include "../common/checks.h"
#include "../common/tensors.h"

SIMD vfloat vload(const float* p) { return *reinterpret_cast<const vfloat_u*>(p); }
SIMD vfloat vload(const bf16* p) {
#if defined(GRPO_ISA_AVX512)
  return (vfloat)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16);
#elif defined(GRPO_ISA_AVX2)
  return (vfloat)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
  const vuint wide = __builtin_convertvector(*reinterpret_cast<const vhalf_u*>(p), vuint) << 16;
  return (vfloat)wide;
#endif
}
SIMD vfloat vload(const f16* p) {
#if defined(GRPO_ISA_AVX512)
  return (vfloat)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(GRPO_ISA_AVX2)
  return (vfloat)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vfloat x;
  for (int i = 0; i < kWidth; ++i) x[i] = to_float(p[i]);
  return x;
#endif
}

SIMD void vstore(float* p, vfloat x) { *reinterpret_cast<vfloat_u*>(p) = x; }
SIMD vhalf round_to_bf16(vfloat x) {
#if defined(GRPO_ISA_AVX512)
  const __m512i bits = (__m512i)x, high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
  return (vhalf)_mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
#elif defined(GRPO_ISA_AVX2)
  const __m256i bits = (__m256i)x, high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i nan = (__m256i)_mm256_cmp_ps((__m256)x, (__m256)x, _CMP_UNORD_Q);
  const __m256i kept = _mm256_blendv_epi8(rounded, quiet, nan);
  return (vhalf)_mm_packus_epi32(_mm256_castsi256_si128(kept), _mm256_extracti128_si256(kept, 1));
#else
  const vint bits = as_int(x);
  const vint rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const vint kept = x != x ? ((bits >> 16) | 0x40) : rounded;
  return __builtin_convertvector(kept, vhalf);
#endif
}
SIMD void vstore(bf16* p, vfloat x) { *reinterpret_cast<vhalf_u*>(p) = round_to_bf16(x); }
SIMD void vstore(f16* p, vfloat x) {
#if defined(GRPO_ISA_AVX512)
  const __m256i bits = _mm512_maskz_cvtps_ph(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits);
#elif defined(GRPO_ISA_AVX2)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kWidth; ++i) p[i] = from_float<f16>(x[i]);
#endif
}

// The first n < kWidth elements; the other lanes are `rest`.
template <class T>
SIMD vfloat vload_part(const T* p, int n, float rest = 0.0f) {
  vfloat x = vset(rest);
  for (int i = 0; i < n; ++i) x[i] = to_float(p[i]);
  return x;
}
template <class T>
SIMD void vstore_part(T* p, int n, vfloat x) {
  for (int i = 0; i < n; ++i) p[i] = from_float<T>(x[i]);
}

// ---- functions ------------------------------------------------------------------------------------------------------

SIMD vint lane_numbers() {
  vint lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = i;
  return lanes;
}

// exp(x) = 2^n fraction for -87.4 < x < 88.8: Cody-Waite reduction, then a polynomial of degree 6 (minimax on
// +-ln 2 / 2). `shifted` holds n in its low bits.
struct ExpParts {
  vfloat shifted, n, fraction;
};
SIMD ExpParts exp_parts(vfloat x) {
  const vfloat shift = vset(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
  const vfloat shifted = vfma(x, vset(1.44269504f), shift);
  const vfloat n = shifted - shift;
  vfloat r = vfma(n, vset(-0.693145751953125f), x);
  r = vfma(n, vset(-1.42860677e-6f), r);
  vfloat p = vset(1.37805939e-3f);
  p = vfma(p, r, vset(8.37312452e-3f));
  p = vfma(p, r, vset(4.16695364e-2f));
  p = vfma(p, r, vset(1.66664720e-1f));
  p = vfma(p, r, vset(4.99999851e-1f));
  p = vfma(p, r, vset(1.0f));
  p = vfma(p, r, vset(1.0f));
  return {shifted, n, p};
}

// exp, at most 1.5 ulp off for results that are normal floats; below -87.3 it goes to 0 (no subnormals), above 88.7 to
// +inf; exp(-inf) = 0, NaN stays NaN.
SIMD vfloat vexp(vfloat x) {
  const ExpParts e = exp_parts(vmin(vmax(x, vset(-87.33654f)), vset(88.72283f)));
  // In two halves, since 2^128 alone is no float.
  const vint exponent = as_int(e.shifted) - 0x4b400000;
  const vint half = exponent >> 1;
  const vfloat scaled = e.fraction * as_float((half + 127) << 23) * as_float((exponent - half + 127) << 23);
  const vfloat low = x < vset(-87.33654f) ? vset(0.0f) : scaled;
  const vfloat high = x > vset(88.72283f) ? vset(__builtin_inff()) : low;
  return x != x ? x : high;
}

// ---- loops ----------------------------------------------------------------------------------------------------------

// body(begin, end, worker) over pieces of [0, count) that are multiples of `grain`, on all threads.
template <class F>
static inline void parallel_for(grpo_context& context, int64_t count, int64_t grain, const F& body) {
  context.pool.run(
      count, grain,
      [](const void* f, int64_t begin, int64_t end, int worker) { (*static_cast<const F*>(f))(begin, end, worker); },
      &body);
}
