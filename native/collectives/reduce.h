// Element-wise reduction of the ranks' parts, in rank order: the first with the second, the result with the third, ...
// Each element is rounded once, so that its bits depend on the values alone.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../kernels/common/storage_types.h"
#include "communicator.h"

namespace grpo_native {

template <class T>
struct Floating {
  using Stored = T;
  using Sum = float;
  static float load(T x) { return to_float(x); }
  static T store(float x) { return from_float<T>(x); }
};

// Sums wrap around.
struct Int32 {
  using Stored = int32_t;
  using Sum = int32_t;
  static int32_t load(int32_t x) { return x; }
  static int32_t store(int32_t x) { return x; }
};

// NaN wins over any number.
template <class Sum>
Sum reduce_two(ReduceOp op, Sum a, Sum b) {
  if (op == ReduceOp::kMax) return a > b || a != a ? a : b;
  if (op == ReduceOp::kMin) return a < b || a != a ? a : b;
  if constexpr (std::is_same_v<Sum, int32_t>) {
    return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  } else {
    return a + b;
  }
}

template <class Type, ReduceOp op>
void reduce_typed(void* out, const std::vector<const void*>& parts, size_t count) {
  constexpr size_t kBlock = 2048;
  typename Type::Sum sum[kBlock];
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto* part = static_cast<const typename Type::Stored*>(parts[p]) + begin;
      if (p == 0) {
        for (size_t i = 0; i < n; ++i) sum[i] = Type::load(part[i]);
      } else {
        for (size_t i = 0; i < n; ++i) sum[i] = reduce_two(op, sum[i], Type::load(part[i]));
      }
    }
    auto* to = static_cast<typename Type::Stored*>(out) + begin;
    for (size_t i = 0; i < n; ++i) to[i] = Type::store(sum[i]);
  }
}

template <class Type>
void reduce_op(ReduceOp op, void* out, const std::vector<const void*>& parts, size_t count) {
  if (op == ReduceOp::kSum) return reduce_typed<Type, ReduceOp::kSum>(out, parts, count);
  if (op == ReduceOp::kMax) return reduce_typed<Type, ReduceOp::kMax>(out, parts, count);
  reduce_typed<Type, ReduceOp::kMin>(out, parts, count);
}

// `out` may be one of the parts. dtype: grpo_dtype.
inline void reduce_in_order(uint32_t dtype, ReduceOp op, void* out, const std::vector<const void*>& parts,
                            size_t count) {
  switch (dtype) {
    case 0:
      return reduce_op<Floating<float>>(op, out, parts, count);
    case 1:
      return reduce_op<Floating<bf16>>(op, out, parts, count);
    case 2:
      return reduce_op<Floating<f16>>(op, out, parts, count);
    default:
      return reduce_op<Int32>(op, out, parts, count);
  }
}

}  // namespace grpo_native
