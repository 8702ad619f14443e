// Tensors as kernels see them. Rows of any float dtype are read and written as floats; which dtype it is, is the same
// for all threads, so that the branch costs less than a copy of each kernel a dtype. Kernels at the limit of memory are
// compiled for each dtype instead (with_float_type).
#pragma once

#include "../common/tensors.h"
#include "../include/grpo.h"
#include "runtime.h"

namespace grpo_cuda {

template <int N>
struct Floats {
  float item[N];
};

// Two numbers rounded to bf16 in a register, `first` in its low half.
__device__ __forceinline__ unsigned bf16_pair(float first, float second) {
#ifdef __CUDA_ARCH__
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return to_bf16(first).bits | static_cast<unsigned>(to_bf16(second).bits) << 16;
#endif
}

// 16 bytes of adjacent elements.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  union {
    T item[kSize];
    uint32_t word[4];
  };

  // An element as a float, by one instruction from the word that it is in.
  __device__ __forceinline__ float operator[](int i) const {
    if constexpr (__is_same(T, bf16)) {
      return float_of_bits(i % 2 == 0 ? word[i / 2] << 16 : word[i / 2] & 0xffff0000u);
    } else {
      return to_float(item[i]);
    }
  }
};

// N adjacent elements as they are stored, those of 16 bits in the first words.
template <int N>
struct StoredFloats {
  union {
    float f32[N];
    bf16 as_bf16[N];
    f16 as_f16[N];
  };
};

// Rows of f32, bf16 or f16; `stride` elements from one row to the next. An absent tensor has no data.
struct FloatRows {
  void* data;
  int dtype;
  int64_t stride;

  // N adjacent elements in one access, and what they are as floats. What reads several tensors fetches from all of them
  // first: which dtype it is is a branch, and none of the loads behind it would be in flight at the same time.
  template <int N>
  __device__ __forceinline__ StoredFloats<N> fetch(int64_t row, int64_t column) const {
    const int64_t at = row * stride + column;
    StoredFloats<N> stored;
    if (dtype == GRPO_F32) {
      copy_items(stored.f32, static_cast<const float*>(data) + at);
    } else {
      copy_items(stored.as_bf16, static_cast<const bf16*>(data) + at);
    }
    return stored;
  }
  template <int N>
  __device__ __forceinline__ Floats<N> floats(const StoredFloats<N>& stored) const {
    Floats<N> out;
    if (dtype == GRPO_F32) {
#pragma unroll
      for (int i = 0; i < N; ++i) out.item[i] = stored.f32[i];
    } else if (dtype == GRPO_BF16) {
#pragma unroll
      for (int i = 0; i < N; ++i) out.item[i] = to_float(stored.as_bf16[i]);
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) out.item[i] = to_float(stored.as_f16[i]);
    }
    return out;
  }
  template <int N>
  __device__ __forceinline__ Floats<N> load(int64_t row, int64_t column) const {
    return floats(fetch<N>(row, column));
  }
  template <int N>
  __device__ __forceinline__ void store(int64_t row, int64_t column, const Floats<N>& value) const {
    const int64_t at = row * stride + column;
    if (dtype == GRPO_F32) return store_as(static_cast<float*>(data) + at, value);
    if (dtype == GRPO_BF16) return store_as(static_cast<bf16*>(data) + at, value);
    store_as(static_cast<f16*>(data) + at, value);
  }
  __device__ __forceinline__ float load(int64_t row, int64_t column) const { return load<1>(row, column).item[0]; }
  __device__ __forceinline__ void store(int64_t row, int64_t column, float value) const {
    store<1>(row, column, {{value}});
  }

 private:
  template <class T, int N>
  struct alignas(sizeof(T) * N) Items {
    T item[N];
  };
  // Their address is a multiple of the size of all.
  template <int N, class T>
  static __device__ __forceinline__ void copy_items(T (&to)[N], const T* from) {
    const Items<T, N> items = *reinterpret_cast<const Items<T, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = items.item[i];
  }
  template <int N, class T>
  static __device__ __forceinline__ void store_as(T* to, const Floats<N>& value) {
    Items<T, N> items;
#pragma unroll
    for (int i = 0; i < N; ++i) items.item[i] = from_float<T>(value.item[i]);
    *reinterpret_cast<Items<T, N>*>(to) = items;
  }
};

inline FloatRows float_rows(const grpo_tensor& t) { return {t.data, t.dtype, t.row_stride}; }
inline int32_t* int_data(const grpo_tensor& t) { return static_cast<int32_t*>(t.data); }

// Whether every row begins where `bytes` can be read in one access.
inline bool is_aligned(const grpo_tensor& t, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(t.data) % bytes == 0 && t.row_stride * element_bytes(t) % bytes == 0;
}
// Whether rows can be read in `n` elements at a time.
inline bool is_aligned_for(const grpo_tensor& t, int n) { return is_aligned(t, n * element_bytes(t)); }

}  // namespace grpo_cuda
