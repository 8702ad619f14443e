// adamw. Compiled once an instruction set (isa/kernels.inc).

SIMD vfloat square_root(vfloat x) {
#if defined(GRPO_ISA_AVX512)
  return (vfloat)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(GRPO_ISA_AVX2)
  return (vfloat)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < kWidth; ++i) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

#include "../common/adamw.h"

grpo_status adamw(grpo_context& context, const grpo_adamw_args& args) {
  if (auto status = check_adamw(context, args)) return status;
  const float* norm = static_cast<const float*>(args.norm.data);
  if (norm && !std::isfinite(*norm)) return GRPO_OK;
  const float clip = norm ? clip_factor(*norm, args.max_norm) : 1.0f;
  const AdamwStep step =
      adamw_step(args.learning_rate, args.beta1, args.beta2, args.epsilon, args.weight_decay, args.step);
  float* parameters = static_cast<float*>(args.parameters.data);
  const float* gradients = static_cast<const float*>(args.gradients.data);
  float* first_moment = static_cast<float*>(args.first_moment.data);
  float* second_moment = static_cast<float*>(args.second_moment.data);
  parallel_pieces(context, 1, args.parameters.shape[0], [&](int64_t, int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; i += kWidth) {
      const int64_t n = begin + count - i;
      vfloat p = vload_some(parameters + i, n), m = vload_some(first_moment + i, n);
      vfloat v = vload_some(second_moment + i, n);
      adamw_update(step, vload_some(gradients + i, n) * clip, p, m, v);
      vstore_some(parameters + i, n, p);
      vstore_some(first_moment + i, n, m);
      vstore_some(second_moment + i, n, v);
    }
    if (!args.model_weights.data) return;
    with_float_type(args.model_weights,
                    [&](auto* weights) { convert_row(weights + begin, parameters + begin, count); });
  });
  return GRPO_OK;
}
