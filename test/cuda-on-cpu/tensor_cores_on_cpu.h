// The instructions of kernels/cuda/tensor_cores.h on the processor, by the words of the PTX ISA: which lane holds which
// element is written here once, and test/unit/cuda-on-cpu.test.ts holds it against plain products.
#pragma once

#include <vector>

#include "cuda_runtime.h"

namespace cuda_on_cpu {

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32: products are exact; they are added to `sums` one after another
// in float32 (hardware adds in an order of its own).
void mma_m16n8k16(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16.
void ldmatrix_x4(unsigned (&matrices)[4], const void* row, bool transposed);

// cp.async.cg.shared.global of 16 bytes, of which the source gives `from_bytes` and the rest are zeros. Until its
// thread waits, the place holds NaN.
void copy_async(void* to, const void* from, unsigned from_bytes);
// cp.async.wait_all.
void wait_for_copies();

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};
std::vector<Copy>& copies_in_flight();  // of the running thread

}  // namespace cuda_on_cpu
