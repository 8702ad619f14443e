// Finds the table of functions of a kind of device: the CPU's is linked in, CUDA's lives in a shared library that is
// opened when it is asked for, so that a machine without CUDA loads the same addon.
#pragma once

#include <string>
#include <vector>

#include "../kernels/include/grpo.h"
#include "mailbox.h"

namespace grpo_native {

// nullptr when there is none; `attempts` then says what was tried. `libraries` are paths to try in order. An opened
// library stays open as long as the process.
const grpo_backend* load_backend(const std::string& kind, const std::vector<std::string>& libraries,
                                 std::vector<Attempt>& attempts);

}  // namespace grpo_native
