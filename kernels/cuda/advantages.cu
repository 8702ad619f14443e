// group_advantages. Groups are small: a thread takes a whole one.

#include <vector>

#include "operations.h"
// clang-format off
#include "../common/advantages.h"
// clang-format on

namespace grpo_cuda {

namespace {

constexpr int kGroupThreads = 64;

__global__ void __launch_bounds__(kGroupThreads)
    advantages_kernel(const float* rewards, const int32_t* offsets, int64_t groups, int baseline, int scale,
                      double epsilon, double batch_deviation, float* advantages) {
  const int64_t g = int64_t{blockIdx.x} * kGroupThreads + threadIdx.x;
  if (g >= groups) return;
  const RewardMoments group = reward_moments(rewards + offsets[g], offsets[g + 1] - offsets[g]);
  const double deviation = scale == GRPO_SCALE_BATCH ? batch_deviation : group.deviation;
  const double divisor = scale == GRPO_SCALE_NONE ? 1.0 : deviation + epsilon;
  for (int64_t i = offsets[g]; i < offsets[g + 1]; ++i)
    advantages[i] = group_advantage(rewards[i], group, baseline, divisor);
}

}  // namespace

grpo_status group_advantages(grpo_context& context, const grpo_group_advantages_args& args) {
  const int64_t count = args.rewards.shape[0], groups = args.group_offsets.shape[0] - 1;
  if (auto status = check_offsets(context, "groupAdvantages: groupOffsets", args.group_offsets, count)) return status;
  if (count == 0) return GRPO_OK;
  // Rewards are few, and come once a step: they are checked, and those of the batch measured, on the host.
  std::vector<float> rewards(static_cast<size_t>(count));
  if (auto status = context.download(rewards.data(), args.rewards.data, count * sizeof(float))) return status;
  for (int64_t i = 0; i < count; ++i) {
    if (std::isinf(rewards[i])) return refuse_reward(context, i, rewards[i]);
  }
  const int scale = static_cast<int>(args.scale);
  const double batch = scale == GRPO_SCALE_BATCH ? reward_moments(rewards.data(), count).deviation : 0.0;
  return launch(context, advantages_kernel,
                {dim3(static_cast<unsigned>(ceil_divide(groups, kGroupThreads))), dim3(kGroupThreads)},
                float_data(args.rewards), int_data(args.group_offsets), groups, static_cast<int>(args.baseline), scale,
                args.epsilon, batch, float_data(args.advantages));
}

}  // namespace grpo_cuda
