// One AdamW update of a parameter, with decoupled weight decay.
// Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, arranged as PyTorch does:
//   m += (g - m)(1 - beta1);  v = beta2 v + (1 - beta2) g^2
//   p = p (1 - lr decay) - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
#pragma once

#include "hd.h"

// What is the same for all parameters of a step.
struct AdamwStep {
  float kept;             // 1 - lr * decay
  float new_first;        // 1 - beta1
  float old_second;       // beta2
  float new_second;       // 1 - beta2
  float step_size;        // lr / (1 - beta1^step)
  float correction_root;  // sqrt(1 - beta2^step)
  float epsilon;
};

static inline AdamwStep adamw_step(double learning_rate, double beta1, double beta2, double epsilon,
                                   double weight_decay, double step) {
  return {static_cast<float>(1.0 - learning_rate * weight_decay),
          static_cast<float>(1.0 - beta1),
          static_cast<float>(beta2),
          static_cast<float>(1.0 - beta2),
          static_cast<float>(learning_rate / (1.0 - std::pow(beta1, step))),
          static_cast<float>(std::sqrt(1.0 - std::pow(beta2, step))),
          static_cast<float>(epsilon)};
}

// What gradients are multiplied by first: min(1, max_norm / (norm + 1e-6)), and 1 when max_norm is not positive.
GRPO_HD float clip_factor(float norm, double max_norm) {
  const double factor = max_norm / (static_cast<double>(norm) + 1e-6);
  return max_norm > 0.0 && factor < 1.0 ? static_cast<float>(factor) : 1.0f;
}

// `Float` is float or a vector of them; `square_root` of it is declared before.
template <class Float>
GRPO_HD void adamw_update(const AdamwStep& step, Float gradient, Float& parameter, Float& first_moment,
                          Float& second_moment) {
  first_moment = first_moment + (gradient - first_moment) * step.new_first;
  second_moment = second_moment * step.old_second + gradient * gradient * step.new_second;
  const Float denominator = square_root(second_moment) / step.correction_root + step.epsilon;
  parameter = parameter * step.kept - first_moment / denominator * step.step_size;
}
