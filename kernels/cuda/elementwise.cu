// add, swiglu, swiglu_backward.

#include "operations.h"

namespace grpo_cuda {

namespace {

struct AddBody {
  FloatRows a, b, out;
  float alpha, beta;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const auto left = a.fetch<N>(row, column), right = b.fetch<N>(row, column);
    const Floats<N> x = a.floats(left), y = b.floats(right);
    Floats<N> sum;
#pragma unroll
    for (int i = 0; i < N; ++i) sum.item[i] = alpha * x.item[i] + beta * y.item[i];
    out.store<N>(row, column, sum);
  }
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct SwigluBody {
  FloatRows gate, up, out;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const auto gates = gate.fetch<N>(row, column), ups = up.fetch<N>(row, column);
    const Floats<N> g = gate.floats(gates), u = up.floats(ups);
    Floats<N> y;
#pragma unroll
    for (int i = 0; i < N; ++i) y.item[i] = g.item[i] * sigmoid(g.item[i]) * u.item[i];
    out.store<N>(row, column, y);
  }
};

// d silu(g) / dg = s + g s (1 - s) with s = sigmoid(g).
struct SwigluBackwardBody {
  FloatRows gate, up, grad_out, grad_gate, grad_up;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const auto gates = gate.fetch<N>(row, column), ups = up.fetch<N>(row, column),
               grads = grad_out.fetch<N>(row, column);
    const Floats<N> g = gate.floats(gates), u = up.floats(ups), dy = grad_out.floats(grads);
    Floats<N> dg, du;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float s = sigmoid(g.item[i]), silu = g.item[i] * s;
      dg.item[i] = dy.item[i] * u.item[i] * (s + silu * (1.0f - s));
      du.item[i] = dy.item[i] * silu;
    }
    grad_gate.store<N>(row, column, dg);
    grad_up.store<N>(row, column, du);
  }
};

}  // namespace

// Four would spill on sm_100 and sm_120.
template <>
constexpr int kElementBlocks<SwigluBackwardBody> = 3;

grpo_status add(grpo_context& context, const grpo_add_args& args) {
  const AddBody body = {float_rows(args.a), float_rows(args.b), float_rows(args.out), static_cast<float>(args.alpha),
                        static_cast<float>(args.beta)};
  return for_elements(context, row_count(args.out), column_count(args.out), body, args.a, args.b, args.out);
}

grpo_status swiglu(grpo_context& context, const grpo_swiglu_args& args) {
  const SwigluBody body = {float_rows(args.gate), float_rows(args.up), float_rows(args.out)};
  return for_elements(context, args.out.shape[0], args.out.shape[1], body, args.gate, args.up, args.out);
}

grpo_status swiglu_backward(grpo_context& context, const grpo_swiglu_backward_args& args) {
  const SwigluBackwardBody body = {float_rows(args.gate), float_rows(args.up), float_rows(args.grad_out),
                                   float_rows(args.grad_gate), float_rows(args.grad_up)};
  return for_elements(context, args.gate.shape[0], args.gate.shape[1], body, args.gate, args.up, args.grad_out,
                      args.grad_gate, args.grad_up);
}

}  // namespace grpo_cuda
