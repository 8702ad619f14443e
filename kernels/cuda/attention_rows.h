// What the attention kernels share: the rows of keys that a query row sees, and dot products of a lane.
//
// In the plain kernels a warp computes one head of one row. It takes 32 keys (or, for the gradient of keys, 32 queries)
// at a time: each lane the score of one of them, then all lanes together the sum over them, each lane every 32nd
// element of the head.
#pragma once

#include <initializer_list>
#include <vector>

#include "operations.h"

namespace grpo_cuda {

constexpr int kAttentionWarps = 4;
constexpr int kLargestHead = 256;

struct Heads {
  int64_t width;               // elements of a head
  int64_t query_heads, group;  // `group` query heads read one key head
};

inline Heads heads_of(const grpo_tensor& queries, const grpo_tensor& keys, double head_dim) {
  const int64_t width = static_cast<int64_t>(head_dim);
  return {width, queries.shape[1] / width, keys.shape[1] == 0 ? 1 : queries.shape[1] / keys.shape[1]};
}

inline grpo_status check_head_width(grpo_context& context, const char* operation, double head_dim) {
  if (head_dim <= kLargestHead) return GRPO_OK;
  return context.fail(GRPO_UNSUPPORTED, "%s: expected a headDim of at most %d but received %g", operation, kLargestHead,
                      head_dim);
}

// The rows that a query sees: two runs, one after the other.
struct RowRuns {
  int64_t first_start, first_length, second_start, second_length;

  __device__ __forceinline__ int64_t length() const { return first_length + second_length; }
  __device__ __forceinline__ int64_t row(int64_t i) const {
    return i < first_length ? first_start + i : second_start + i - first_length;
  }
};

// Packed sequences on the device; `parents` may be null.
struct DeviceSequences {
  const int32_t *offsets, *parents;
  int64_t count;

  // The sequence of a row: the last that begins at or before it. Empty sequences hold no row.
  __device__ __forceinline__ int64_t sequence_of(int64_t row) const {
    int64_t low = 0, high = count - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (offsets[middle] <= row)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
  __device__ __forceinline__ RowRuns seen_by(int64_t row) const {
    const int64_t b = sequence_of(row), parent = parents ? parents[b] : -1;
    const int64_t start = offsets[b], own = row - start + 1;
    if (parent < 0) return {start, own, 0, 0};
    return {offsets[parent], offsets[parent + 1] - offsets[parent], start, own};
  }
};

// Whether a head's elements can be read four at a time.
inline bool heads_by_four(const Heads& heads, std::initializer_list<const grpo_tensor*> tensors) {
  return heads.width % 4 == 0 &&
         std::all_of(tensors.begin(), tensors.end(), [](const grpo_tensor* t) { return is_aligned_for(*t, 4); });
}

// a . b[row, column...], `a` floats in shared memory.
template <int N>
__device__ __forceinline__ float dot(const float* a, const FloatRows& b, int64_t row, int64_t column, int64_t width) {
  float sum = 0.0f;
  for (int64_t i = 0; i < width; i += N) {
    const Floats<N> x = b.load<N>(row, column + i);
#pragma unroll
    for (int k = 0; k < N; ++k) sum = fmaf(a[i + k], x.item[k], sum);
  }
  return sum;
}

// Copies a head to shared memory, by one warp.
__device__ __forceinline__ void load_head(float* to, const FloatRows& from, int64_t row, int64_t column,
                                          int64_t width) {
  for (int64_t i = threadIdx.x; i < width; i += kWarp) to[i] = from.load(row, column + i);
}

// sums[j] += weight of lane k * rows[row of lane k, column + lane + 32 j], over the first `count` lanes k in order.
template <int kElements>
__device__ __forceinline__ void add_weighted(float (&sums)[kElements], float weight, int64_t row, int count,
                                             const FloatRows& rows, int64_t column, int64_t width) {
  for (int k = 0; k < count; ++k) {
    const float w = __shfl_sync(kWholeWarp, weight, k);
    const int64_t from = __shfl_sync(kWholeWarp, static_cast<long long>(row), k);
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const int64_t i = threadIdx.x + kWarp * j;
      if (i < width) sums[j] = fmaf(w, rows.load(from, column + i), sums[j]);
    }
  }
}

// What attention and cached_attention are given.
struct AttentionKernel {
  FloatRows queries, keys, values, out;
  float* log_sum_exp;  // [N,A] or null
  int64_t log_sum_exp_stride, rows;
  Heads heads;
  float scale;
};

// One head of a row, by a warp; `query` is memory that it shares, for a head.
template <int kElements, int N>
__device__ __forceinline__ void attention_row(const AttentionKernel& a, const RowRuns& runs, int64_t row, int64_t head,
                                              float* query) {
  const int64_t width = a.heads.width, column = head * width, key_column = head / a.heads.group * width;
  load_head(query, a.queries, row, column, width);
  __syncwarp();
  const int64_t length = runs.length();
  float max = -INFINITY, sum = 0.0f, out[kElements] = {};
  for (int64_t first = 0; first < length; first += kWarp) {
    const int count = static_cast<int>(min(int64_t{kWarp}, length - first));
    const bool valid = threadIdx.x < static_cast<unsigned>(count);
    const int64_t key = runs.row(valid ? first + threadIdx.x : first);
    const float score = valid ? dot<N>(query, a.keys, key, key_column, width) * a.scale : -INFINITY;
    const float most = warp_reduce(score, Max{}), next = most > max ? most : max;
    const float shift = next == -INFINITY ? 0.0f : next;
    const float kept = expf(max - shift), weight = valid ? expf(score - shift) : 0.0f;
    sum = sum * kept + warp_reduce(weight, Sum{});
#pragma unroll
    for (int j = 0; j < kElements; ++j) out[j] *= kept;
    add_weighted(out, weight, key, count, a.values, key_column, width);
    max = next;
  }
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    const int64_t i = threadIdx.x + kWarp * j;
    if (i < width) a.out.store(row, column + i, out[j] / sum);
  }
  if (a.log_sum_exp && threadIdx.x == 0) a.log_sum_exp[row * a.log_sum_exp_stride + head] = max + logf(sum);
}

// run(integer constant) with the registers a lane needs for a head: 1, 2, 4 or 8.
template <class F>
grpo_status with_head_elements(int64_t width, const F& run) {
  if (width <= 32) return run(std::integral_constant<int, 1>{});
  if (width <= 64) return run(std::integral_constant<int, 2>{});
  if (width <= 128) return run(std::integral_constant<int, 4>{});
  return run(std::integral_constant<int, 8>{});
}

inline Launch attention_launch(int64_t warps, const Heads& heads, int vectors) {
  return {dim3(static_cast<unsigned>(ceil_divide(warps, kAttentionWarps))), dim3(kWarp, kAttentionWarps),
          static_cast<size_t>(kAttentionWarps * vectors * heads.width) * sizeof(float)};
}

// The sequences of an operation, checked on the host.
inline grpo_status check_packed(grpo_context& context, const char* operation, const grpo_tensor& offsets,
                                const grpo_tensor& parents, int64_t rows, double max_length) {
  const int64_t count = offsets.shape[0] - 1;
  std::vector<int32_t> own_offsets;
  if (count >= 0) {
    const int32_t* values = context.host_integers(offsets);
    if (!values) return context.status();
    own_offsets.assign(values, values + count + 1);
  }
  const int32_t* own_parents = nullptr;
  if (parents.data && !(own_parents = context.host_integers(parents))) return context.status();
  PackedSequences checked;
  return check_sequences(context, operation, own_offsets.data(), own_parents, count, rows, max_length, &checked);
}

}  // namespace grpo_cuda
