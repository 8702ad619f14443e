// The instructions that matrix products on tensor cores are made of, for sm_80 and later: bf16 operands, float32 sums.
//
// A warp multiplies 16x16 by 16x8 elements; each lane holds a few of either. With g = lane / 4 and t = lane % 4 (PTX
// ISA, "Matrix Fragments for mma.m16n8k16"), the pairs of adjacent elements in a lane's registers are
//   left operand   a[0] row g, columns 2t..   a[1] row g + 8   a[2] row g, columns 2t + 8..   a[3] row g + 8, those
//   right operand  b0   rows 2t.. of column g                  b1   rows 2t + 8.. of it
//   sums           c[0], c[1] row g, columns 2t and 2t + 1     c[2], c[3] row g + 8, those
// Sums of two adjacent products, rounded to bf16, therefore are a left operand as they stand: left_operand().
// On the processor the same functions come from test/cuda-on-cpu/tensor_cores_on_cpu.h.
#pragma once

#include "storage.h"

#ifdef GRPO_CUDA_ON_CPU
#include "tensor_cores_on_cpu.h"
#endif

namespace grpo_cuda {

// sums += a b, over the warp.
__device__ __forceinline__ void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef GRPO_CUDA_ON_CPU
  cuda_on_cpu::mma_m16n8k16(sums, a, b0, b1);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8x8 matrices of shared memory: lanes 8m to 8m + 7 name the rows of matrix m, 16 bytes each. A lane receives of
// each the elements 2t and 2t + 1 of row g, or of column g (`transposed`).
__device__ __forceinline__ void load_matrices(unsigned (&matrices)[4], SharedAddress row) {
#ifdef GRPO_CUDA_ON_CPU
  cuda_on_cpu::ldmatrix_x4(matrices, reinterpret_cast<const void*>(row), false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row)
               : "memory");
#endif
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&matrices)[4], SharedAddress row) {
#ifdef GRPO_CUDA_ON_CPU
  cuda_on_cpu::ldmatrix_x4(matrices, reinterpret_cast<const void*>(row), true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(row)
               : "memory");
#endif
}

// Two adjacent blocks of 16x8 sums, rounded to bf16, as a left operand of 16x16.
__device__ __forceinline__ void left_operand(unsigned (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = bf16_pair(first[0], first[1]);
  a[1] = bf16_pair(first[2], first[3]);
  a[2] = bf16_pair(second[0], second[1]);
  a[3] = bf16_pair(second[2], second[3]);
}

}  // namespace grpo_cuda
