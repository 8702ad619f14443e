// group_advantages. Compiled once an instruction set (isa/kernels.inc).

#include "../common/advantages.h"

grpo_status group_advantages(grpo_context& context, const grpo_group_advantages_args& args) {
  const int64_t count = args.rewards.shape[0], groups = args.group_offsets.shape[0] - 1;
  if (auto status = check_offsets(context, "groupAdvantages: groupOffsets", args.group_offsets, count)) return status;
  const float* rewards = float_data(args.rewards);
  for (int64_t i = 0; i < count; ++i) {
    if (std::isinf(rewards[i])) return refuse_reward(context, i, rewards[i]);
  }
  const int32_t* offsets = static_cast<const int32_t*>(args.group_offsets.data);
  const int scale = static_cast<int>(args.scale);
  const double batch = scale == GRPO_SCALE_BATCH ? reward_moments(rewards, count).deviation : 0.0;
  parallel_for(context, groups, 256, [&](int64_t first, int64_t last, int) {
    for (int64_t g = first; g < last; ++g) {
      const RewardMoments group = reward_moments(rewards + offsets[g], offsets[g + 1] - offsets[g]);
      const double divisor =
          scale == GRPO_SCALE_NONE ? 1.0 : (scale == GRPO_SCALE_BATCH ? batch : group.deviation) + args.epsilon;
      for (int64_t i = offsets[g]; i < offsets[g + 1]; ++i)
        float_data(args.advantages)[i] = group_advantage(rewards[i], group, static_cast<int>(args.baseline), divisor);
    }
  });
  return GRPO_OK;
}
