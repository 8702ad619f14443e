// What the kernels include, gathered before any `#pragma GCC target`: inline functions of the standard library that
// were compiled for one instruction set must not be linked into code for another.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../context.h"
