// adamw: one launch over all parameters.

#include "operations.h"

namespace grpo_cuda {

__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }

}  // namespace grpo_cuda

using grpo_cuda::square_root;
#include "../common/adamw.h"

namespace grpo_cuda {

namespace {

// `model_weights` without data: there are none. Nothing changes when the norm is not finite.
struct AdamwBody {
  FloatRows parameters, gradients, first_moment, second_moment, model_weights;
  const float* norm;
  double max_norm;
  AdamwStep step;

  template <int N>
  __device__ void at(int64_t row, int64_t column) const {
    const float length = norm ? norm[0] : 0.0f;
    if (!(fabsf(length) <= 3.402823466e38f)) return;
    const float clip = norm ? clip_factor(length, max_norm) : 1.0f;
    const auto stored_p = parameters.fetch<N>(row, column), stored_m = first_moment.fetch<N>(row, column),
               stored_v = second_moment.fetch<N>(row, column), stored_g = gradients.fetch<N>(row, column);
    Floats<N> p = parameters.floats(stored_p), m = first_moment.floats(stored_m), v = second_moment.floats(stored_v);
    const Floats<N> g = gradients.floats(stored_g);
#pragma unroll
    for (int i = 0; i < N; ++i) adamw_update(step, g.item[i] * clip, p.item[i], m.item[i], v.item[i]);
    parameters.store<N>(row, column, p);
    first_moment.store<N>(row, column, m);
    second_moment.store<N>(row, column, v);
    if (model_weights.data) model_weights.store<N>(row, column, p);
  }
};

}  // namespace

grpo_status adamw(grpo_context& context, const grpo_adamw_args& args) {
  if (auto status = check_adamw(context, args)) return status;
  const AdamwBody body = {
      float_rows(args.parameters),
      float_rows(args.gradients),
      float_rows(args.first_moment),
      float_rows(args.second_moment),
      float_rows(args.model_weights),
      float_data(args.norm),
      args.max_norm,
      adamw_step(args.learning_rate, args.beta1, args.beta2, args.epsilon, args.weight_decay, args.step)};
  const grpo_tensor& weights = args.model_weights.data ? args.model_weights : args.parameters;
  return for_elements<4>(context, 1, args.parameters.shape[0], body, args.parameters, args.gradients, args.first_moment,
                         args.second_moment, weights);
}

}  // namespace grpo_cuda
