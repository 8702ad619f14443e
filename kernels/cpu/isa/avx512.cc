// Kernels for x86-64 with AVX-512 F, BW, DQ and VL.
#if defined(__x86_64__) || defined(_M_X64)
#include "headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#endif
#define GRPO_ISA_AVX512

namespace grpo::avx512 {
namespace {
constexpr int kWidth = 16;
#include "kernels.inc"
}  // namespace
}  // namespace grpo::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace grpo {
#define GRPO_KERNEL_ENTRY(op) &avx512::op,
const Kernels kKernelsAvx512 = {"avx512", GRPO_OPERATIONS(GRPO_KERNEL_ENTRY)};
}  // namespace grpo
#endif
