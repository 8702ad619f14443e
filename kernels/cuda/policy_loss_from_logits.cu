#include "operations.h"
// clang-format off
#include "../common/policy_token.h"
#include "../common/policy_loss_steps.h"
// clang-format on

namespace grpo_cuda {

grpo_status policy_loss_from_logits(grpo_context& context, const grpo_policy_loss_from_logits_args& args) {
  const PolicyLossSteps steps(args);
  if (auto status = check_policy_loss_from_logits(context, args, steps, kStatisticCount)) return status;
  if (auto status = token_log_probs(context, steps.forward)) return status;
  if (auto status = policy_loss(context, steps.loss)) return status;
  return token_log_probs_backward(context, steps.backward);
}

}  // namespace grpo_cuda
