// GRPO_HD: a function compiled for the host, and under nvcc for the device too. On the host it has internal linkage, so
// that the copies that kernels/cpu/isa/ compiles for different instruction sets stay apart. GRPO_HD_MEMBER is the same
// for member functions.
#pragma once

#ifdef __CUDACC__
#define GRPO_HD __host__ __device__ __forceinline__
#define GRPO_HD_MEMBER __host__ __device__ __forceinline__
#else
#define GRPO_HD static inline
#define GRPO_HD_MEMBER inline
#endif
