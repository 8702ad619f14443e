// Philox4x32-10, a counter-based random number generator: ten rounds turn (key, counter) into four independent words,
// so that a random number is a function of what it is for and of nothing else.
// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
#pragma once

#include "hd.h"

struct PhiloxWords {
  uint32_t word[4];
};

GRPO_HD PhiloxWords philox(uint32_t key0, uint32_t key1, uint32_t counter0, uint32_t counter1, uint32_t counter2,
                           uint32_t counter3) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter0, product1 = uint64_t{0xCD9E8D57u} * counter2;
    const uint32_t kept1 = counter1, kept3 = counter3;
    counter0 = static_cast<uint32_t>(product1 >> 32) ^ kept1 ^ key0;
    counter1 = static_cast<uint32_t>(product1);
    counter2 = static_cast<uint32_t>(product0 >> 32) ^ kept3 ^ key1;
    counter3 = static_cast<uint32_t>(product0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return {{counter0, counter1, counter2, counter3}};
}

// The number from [0,1), with 53 random bits, that draws token `position` of `sequence` under a 64-bit seed.
GRPO_HD double sample_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t sequence, uint32_t position) {
  const PhiloxWords words = philox(seed_low, seed_high, sequence, position, 0, 0);
  const uint64_t bits = (uint64_t{words.word[0]} << 32 | words.word[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}
