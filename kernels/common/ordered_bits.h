// Floats as unsigned integers of the same order, for selection by digits.
#pragma once

#include "storage_types.h"

GRPO_HD uint32_t ordered_bits(float x) {
  const uint32_t bits = bits_of_float(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
GRPO_HD float from_ordered_bits(uint32_t key) { return float_of_bits(key >> 31 ? key & 0x7fffffffu : ~key); }

// The same with NaN below all others.
GRPO_HD uint32_t ordered_key(float x) { return x != x ? 0 : ordered_bits(x); }
