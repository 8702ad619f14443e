// Kernels for any processor: SSE2 on x86-64, NEON on arm64, plain vectors of four elsewhere.
#include "headers.h"

namespace grpo::baseline {
namespace {
constexpr int kWidth = 4;
#include "kernels.inc"
}  // namespace
}  // namespace grpo::baseline

namespace grpo {
#define GRPO_KERNEL_ENTRY(op) &baseline::op,
const Kernels kKernelsBaseline = {"baseline", GRPO_OPERATIONS(GRPO_KERNEL_ENTRY)};
}  // namespace grpo
