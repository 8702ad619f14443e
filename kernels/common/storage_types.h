// float as it is; bf16 and f16 as their bits under a type of their own, so that templates can tell them apart.
#pragma once

#include "hd.h"

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

GRPO_HD float float_of_bits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return __builtin_bit_cast(float, bits);
#endif
}
GRPO_HD uint32_t bits_of_float(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  return __builtin_bit_cast(uint32_t, x);
#endif
}

GRPO_HD float to_float(float x) { return x; }
GRPO_HD float to_float(bf16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }
GRPO_HD float to_float(f16 x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Shifting the bits into a float's place leaves the exponent 112 too small; the product mends it, subnormals
  // included.
  const float scaled = float_of_bits(magnitude << 13) * 0x1p112f;
  return float_of_bits(bits_of_float(scaled) | sign);
#endif
}

// Rounded to nearest even; NaN stays NaN.
GRPO_HD bf16 to_bf16(float x) {
#ifdef __CUDA_ARCH__
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  const uint32_t bits = bits_of_float(x);
  if (x != x) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
#endif
}
GRPO_HD f16 to_f16(float x) {
#ifdef __CUDA_ARCH__
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
  return result;
#else
  const uint32_t bits = bits_of_float(x), sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {0x7e00u};
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 lets the float adder round at the right bit
    const float shifted = float_of_bits(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (bits_of_float(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13)};
#endif
}

template <class T>
GRPO_HD T from_float(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else if constexpr (__is_same(T, bf16)) {
    return to_bf16(x);
  } else {
    return to_f16(x);
  }
}
