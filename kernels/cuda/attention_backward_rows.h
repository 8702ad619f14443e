// The gradients of attention, a row at a time. With p the weights of a row, o its output and dO the gradient of that:
//   delta = dO . o      dS = p (dO v - delta)      dQ = scale dS k      dK = scale sum over rows of dS q
//   dV = sum over rows of p dO
// The weights are computed again from the scores and the row's log-sum-exp.
#pragma once

#include "attention_rows.h"

namespace grpo_cuda {

struct BackwardKernel {
  FloatRows queries, keys, values, out, grad_out, grad_queries, grad_keys, grad_values;
  const float* log_sum_exp;  // [N,A]
  int64_t log_sum_exp_stride;
  float* delta;  // [N,A]
  int64_t rows;
  Heads heads;
  float scale;
  DeviceSequences sequences;
};

// The gradients of operands that fit tiles.
grpo_status attention_backward_tiles(grpo_context& context, const BackwardKernel& a);

// A head without finite scores has no weights.
__device__ __forceinline__ float weight_of(float score, float log_sum_exp) {
  return log_sum_exp == -INFINITY ? 0.0f : expf(score - log_sum_exp);
}

// The gradient of one head of a query, and its delta, by a warp; `query` is memory that it shares, for two heads.
template <int kElements, int N>
__device__ __forceinline__ void grad_queries_row(const BackwardKernel& a, int64_t row, int64_t head, float* query) {
  const int64_t width = a.heads.width, column = head * width, key_column = head / a.heads.group * width;
  float* grad_out = query + width;
  load_head(query, a.queries, row, column, width);
  load_head(grad_out, a.grad_out, row, column, width);
  __syncwarp();
  float delta = 0.0f;
  for (int64_t i = threadIdx.x; i < width; i += kWarp) delta += grad_out[i] * a.out.load(row, column + i);
  delta = warp_reduce(delta, Sum{});
  if (threadIdx.x == 0) a.delta[row * a.heads.query_heads + head] = delta;

  const RowRuns runs = a.sequences.seen_by(row);
  const int64_t length = runs.length();
  const float log_sum_exp = a.log_sum_exp[row * a.log_sum_exp_stride + head];
  float grad[kElements] = {};
  for (int64_t first = 0; first < length; first += kWarp) {
    const int count = static_cast<int>(min(int64_t{kWarp}, length - first));
    const bool valid = threadIdx.x < static_cast<unsigned>(count);
    const int64_t key = runs.row(valid ? first + threadIdx.x : first);
    float grad_score = 0.0f;
    if (valid) {
      const float weight = weight_of(dot<N>(query, a.keys, key, key_column, width) * a.scale, log_sum_exp);
      grad_score = weight * (dot<N>(grad_out, a.values, key, key_column, width) - delta);
    }
    add_weighted(grad, grad_score, key, count, a.keys, key_column, width);
  }
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    const int64_t i = threadIdx.x + kWarp * j;
    if (i < width) a.grad_queries.store(row, column + i, grad[j] * a.scale);
  }
}

// The gradient of one head of a row of keys and values, over the rows that see it: those of its own sequence from it
// on, then all of the sequences that continue it, each with every query head of the group. By a warp; `key` is memory
// that it shares, for two heads.
template <int kElements, int N>
__device__ __forceinline__ void grad_keys_row(const BackwardKernel& a, int64_t row, int64_t key_head, float* key) {
  const int64_t width = a.heads.width, key_column = key_head * width;
  float* value = key + width;
  load_head(key, a.keys, row, key_column, width);
  load_head(value, a.values, row, key_column, width);
  __syncwarp();
  float grad_key[kElements] = {}, grad_value[kElements] = {};
  const auto add_rows = [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kWarp) {
      const int count = static_cast<int>(min(int64_t{kWarp}, end - first));
      const bool valid = threadIdx.x < static_cast<unsigned>(count);
      const int64_t from = valid ? first + threadIdx.x : first;
      for (int64_t head = key_head * a.heads.group; head < (key_head + 1) * a.heads.group; ++head) {
        const int64_t column = head * width, at = from * a.heads.query_heads + head;
        float weight = 0.0f, grad_score = 0.0f;
        if (valid) {
          weight = weight_of(dot<N>(key, a.queries, from, column, width) * a.scale,
                             a.log_sum_exp[from * a.log_sum_exp_stride + head]);
          grad_score = weight * (dot<N>(value, a.grad_out, from, column, width) - a.delta[at]);
        }
        add_weighted(grad_value, weight, from, count, a.grad_out, column, width);
        add_weighted(grad_key, grad_score, from, count, a.queries, column, width);
      }
    }
  };
  const DeviceSequences& s = a.sequences;
  const int64_t own = s.sequence_of(row);
  add_rows(row, s.offsets[own + 1]);
  if (s.parents) {
    for (int64_t b = own + 1; b < s.count; ++b) {
      if (s.parents[b] == own) add_rows(s.offsets[b], s.offsets[b + 1]);
    }
  }
#pragma unroll
  for (int j = 0; j < kElements; ++j) {
    const int64_t i = threadIdx.x + kWarp * j;
    if (i >= width) continue;
    a.grad_keys.store(row, key_column + i, grad_key[j] * a.scale);
    a.grad_values.store(row, key_column + i, grad_value[j]);
  }
}

}  // namespace grpo_cuda
