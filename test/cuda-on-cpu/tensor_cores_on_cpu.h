// The instructions of kernels/cuda/tensor_cores.h on the processor, by the words of the PTX ISA: which lane holds which
// element is written here once, and test/unit/cuda-on-cpu/ holds it against plain products.
#pragma once

#include "cuda_runtime.h"

namespace cuda_on_cpu {

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, with sums at least as rough as those of any device.
void mma_m16n8k16(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16.
void ldmatrix_x4(unsigned (&matrices)[4], const void* row, bool transposed);

}  // namespace cuda_on_cpu
