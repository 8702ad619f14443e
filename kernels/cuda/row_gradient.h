// The gradient of one row of logits, a part at a time, possibly in place (NUMERICS section 1).
#pragma once

#include "row_softmax.h"

namespace grpo_cuda {

// The softmax part of the gradient of a capped logit.
__device__ __forceinline__ float gradient_element(float capped, const RowGradient& row) {
  const float x = row_exponent(capped, row.shift, row.inverse_temperature * kLog2e);
  return fast_exp2(x) * fmaf(x, static_cast<float>(row.slope * kLn2), row.intercept);
}

// As many elements of a gradient as 16 bytes of logits hold.
template <class T, class U>
struct alignas(Pack<T>::kSize * sizeof(U)) GradientPack {
  union {
    U item[Pack<T>::kSize];
    uint32_t word[Pack<T>::kSize * sizeof(U) / 4];
  };

  // Elements i and i + 1, i even.
  __device__ __forceinline__ void set_pair(int i, float first, float second) {
    if constexpr (__is_same(U, bf16)) {
      word[i / 2] = bf16_pair(first, second);
    } else {
      item[i] = from_float<U>(first);
      item[i + 1] = from_float<U>(second);
    }
  }
};
// Whether a gradient can be written in such packs.
inline bool takes_packs(const grpo_tensor& logits, const grpo_tensor& grad_logits) {
  return is_aligned(grad_logits, 16 / element_bytes(logits) * element_bytes(grad_logits));
}

// Writes the gradient of the n logits of a part, and returns this thread's sum of the softmax part over all but
// `target`, an index into the part or anything outside it.
template <class T, class U>
__device__ __forceinline__ float part_gradient(const T* logits, U* out, int64_t n, int64_t target, bool aligned,
                                               bool out_aligned, const RowGradient& gradient, float softcap) {
  float sum = 0.0f;
  const auto one = [&](int64_t i, float logit) {
    const float y = gradient_element(capped_logit(logit, softcap), gradient);
    if (i != target) sum += y;
    out[i] = from_float<U>(y * softcap_derivative(logit, softcap));
  };
  const auto many = [&]<int kCount>(int64_t first, const Pack<T>(&packs)[kCount]) {
    constexpr int kPack = Pack<T>::kSize;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const int64_t begin = first + n * kPackStep<T>, at = target - begin;
      float y[kPack];
#pragma unroll
      for (int m = 0; m < kPack; ++m) y[m] = packs[n][m];
      if (softcap != 0.0f) {
#pragma unroll
        for (float& logit : y) logit = capped_logit(logit, softcap);
      }
#pragma unroll
      for (float& value : y) value = gradient_element(value, gradient);
      if (at < 0 || at >= kPack) {
#pragma unroll
        for (int m = 0; m < kPack; ++m) sum += y[m];
      } else {
#pragma unroll
        for (int m = 0; m < kPack; ++m) sum += m == at ? 0.0f : y[m];
      }
      if (softcap != 0.0f) {
#pragma unroll
        for (int m = 0; m < kPack; ++m) y[m] *= softcap_derivative(packs[n][m], softcap);
      }
      GradientPack<T, U> pack;
#pragma unroll
      for (int m = 0; m < kPack; m += 2) pack.set_pair(m, y[m], y[m + 1]);
      if (out_aligned) {
        *reinterpret_cast<GradientPack<T, U>*>(out + begin) = pack;
      } else {
#pragma unroll
        for (int m = 0; m < kPack; ++m) out[begin + m] = pack.item[m];
      }
    }
  };
  for_logits<2>(logits, 0, n, aligned, many, one);
  return sum;
}

// Zeros for the n logits of type T of a row that has no gradient.
template <class T, class U>
__device__ __forceinline__ void zero_gradient(U* out, int64_t n, bool out_aligned) {
  const int64_t packs = out_aligned ? n / Pack<T>::kSize : 0;
  for (int64_t i = threadIdx.x; i < packs; i += kRowThreads) {
    GradientPack<T, U> pack;
#pragma unroll
    for (int m = 0; m < Pack<T>::kSize; ++m) pack.item[m] = from_float<U>(0.0f);
    reinterpret_cast<GradientPack<T, U>*>(out)[i] = pack;
  }
  for (int64_t i = packs * Pack<T>::kSize + threadIdx.x; i < n; i += kRowThreads) out[i] = from_float<U>(0.0f);
}

}  // namespace grpo_cuda
