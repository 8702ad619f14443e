// Kernels for x86-64 with AVX-512 F, BW, DQ and VL.
#if defined(__x86_64__) || defined(_M_X64)
#include "headers.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#define GRPO_ISA_AVX512

namespace grpo::avx512 {
namespace {
constexpr int kWidth = 16;
#include "kernels.inc"
}  // namespace
}  // namespace grpo::avx512

#pragma GCC pop_options

namespace grpo {
#define GRPO_KERNEL_ENTRY(op) &avx512::op,
const Kernels kKernelsAvx512 = {"avx512", GRPO_OPERATIONS(GRPO_KERNEL_ENTRY)};
}  // namespace grpo
#endif
