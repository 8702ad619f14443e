// tensor_cores_on_cpu.h says what this is.

#include <cstdlib>

#include "tensor_cores_on_cpu.h"

namespace cuda_on_cpu {

namespace {

struct Operands {
  unsigned a[4], b[2];
};

// Element 0 or 1 of a register: the low half comes first.
float element(unsigned pair, int i) { return std::bit_cast<float>(i == 0 ? pair << 16 : pair & 0xffff0000u); }

// Products are exact, but they and the sum before them are cut off, at 24 bits from the first of the largest, before
// they are added, and so is the result. Measured devices keep none to a few bits more (Fasi, Higham, Mikaitis, Pranesh
// 2021, doi:10.7717/peerj-cs.330).
float add_products(float sum, const float (&left)[16], const float (&right)[16]) {
  float plain = sum, largest = std::fabs(sum);
  for (int k = 0; k < 16; ++k) {
    const float product = left[k] * right[k];
    plain += product;
    largest = std::fmax(largest, std::fabs(product));
  }
  if (!std::isfinite(plain) || largest < 0x1p-100f) return plain;
  const int exponent = std::ilogb(largest) - 23;
  const double units = std::ldexp(1.0, -exponent);
  int64_t total = static_cast<int64_t>(sum * units);
  for (int k = 0; k < 16; ++k) total += static_cast<int64_t>(left[k] * right[k] * units);
  int64_t step = 1;
  while (std::abs(total / step) >= int64_t{1} << 24) step *= 2;
  return static_cast<float>(std::ldexp(static_cast<double>(total / step * step), exponent));
}

}  // namespace

// PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", with groupID = lane / 4 and
// threadID_in_group = lane % 4:
//   a_i (i = 0..7): row    groupID for i in {0, 1, 4, 5}, groupID + 8 otherwise
//                   column threadID_in_group * 2 + (i & 1), and 8 more for i >= 4
//   b_i (i = 0..3): row    threadID_in_group * 2 + (i & 1), and 8 more for i >= 2;  column groupID
//   c_i (i = 0..3): row    groupID, and 8 more for i >= 2;  column threadID_in_group * 2 + (i & 1)
// Two elements of 16 bits a register, in order.
void mma_m16n8k16(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const Operands own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  const unsigned char* lanes = exchange(&own, sizeof own);
  float left[2][16], right[2][16];  // the rows and columns that this lane needs
  const unsigned group = lane() / 4, in_group = lane() % 4;
  for (unsigned k = 0; k < 16; k += 2) {
    const auto of_row = value_of<Operands>(lanes, 4 * group + k % 8 / 2);
    for (int half = 0; half < 2; ++half) {
      const auto of_column = value_of<Operands>(lanes, 4 * (2 * in_group + half) + k % 8 / 2);
      for (int i = 0; i < 2; ++i) {
        left[half][k + i] = element(of_row.a[half + 2 * (k / 8)], i);
        right[half][k + i] = element(of_column.b[k / 8], i);
      }
    }
  }
  for (int i = 0; i < 4; ++i) sums[i] = add_products(sums[i], left[i / 2], right[i % 2]);
}

// PTX ISA, "Warp-level matrix load instruction: ldmatrix": lanes 8m to 8m + 7 give the addresses of the rows of matrix
// m, each 16 bytes at a multiple of 16; lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of every
// matrix, or with .trans of its column l / 4.
void ldmatrix_x4(unsigned (&matrices)[4], const void* row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) give_up("a row of ldmatrix is not at a multiple of 16 bytes");
  const unsigned char* lanes = exchange(&row, sizeof row);
  const unsigned major = lane() / 4, minor = lane() % 4 * 2;
  for (unsigned m = 0; m < 4; ++m) {
    unsigned pair = 0;
    for (unsigned i = 0; i < 2; ++i) {
      const unsigned from = transposed ? minor + i : major, at = transposed ? major : minor + i;
      const auto* elements = value_of<const uint16_t*>(lanes, 8 * m + from);
      pair |= static_cast<unsigned>(elements[at]) << 16 * i;
    }
    matrices[m] = pair;
  }
  // Lanes read rows that another may write to as soon as it goes on.
  exchange("", 1);
}

}  // namespace cuda_on_cpu
