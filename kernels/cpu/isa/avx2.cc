// Kernels for x86-64 with AVX2, FMA and F16C.
#if defined(__x86_64__) || defined(_M_X64)
#include "headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#endif
#define GRPO_ISA_AVX2

namespace grpo::avx2 {
namespace {
constexpr int kWidth = 8;
#include "kernels.inc"
}  // namespace
}  // namespace grpo::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace grpo {
#define GRPO_KERNEL_ENTRY(op) &avx2::op,
const Kernels kKernelsAvx2 = {"avx2", GRPO_OPERATIONS(GRPO_KERNEL_ENTRY)};
}  // namespace grpo
#endif
