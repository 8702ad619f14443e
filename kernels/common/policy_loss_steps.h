// policy_loss_from_logits as the three operations that it stands for. Included where checks.h is.
#pragma once

#include "../include/grpo.h"

struct PolicyLossSteps {
  grpo_token_log_probs_args forward = {};
  grpo_policy_loss_args loss = {};
  grpo_token_log_probs_backward_args backward = {};

  explicit PolicyLossSteps(const grpo_policy_loss_from_logits_args& args) {
    backward = {args.logits,
                args.targets,
                args.log_sum_exp,
                args.entropy,
                args.grad_log_probs,
                args.grad_entropy,
                args.grad_logits,
                args.temperature,
                args.softcap,
                0.0,
                0.0};
#define GRPO_TAKE_FORWARD(name) forward.name = args.name;
#define GRPO_TAKE_LOSS(name) loss.name = args.name;
    // clang-format off
    GRPO_FIELDS_token_log_probs(GRPO_TAKE_FORWARD, GRPO_TAKE_FORWARD)
    GRPO_FIELDS_policy_loss(GRPO_TAKE_LOSS, GRPO_TAKE_LOSS)
// clang-format on
#undef GRPO_TAKE_FORWARD
#undef GRPO_TAKE_LOSS
  }
};

static inline grpo_status check_policy_loss_from_logits(grpo_context& context,
                                                        const grpo_policy_loss_from_logits_args& args,
                                                        const PolicyLossSteps& steps, int64_t statistic_count) {
  const char* const name = "policyLossFromLogits";
  if (auto status = check_log_probs(context, name, args.temperature, args.softcap, args.targets, args.logits.shape[1]))
    return status;
  if (auto status = check_grad_logits(context, name, args.logits, args.grad_logits)) return status;
  return check_policy_loss(context, steps.loss, statistic_count, name);
}
