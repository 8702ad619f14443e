// Finds the library of a communication engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../mailbox.h"
#include "communicator.h"

namespace grpo_native {

// nullptr when the engine is not available; `attempts` then says what was tried. `engine`: "gloo" or "nccl". An opened
// library stays open as long as the process.
std::unique_ptr<Communicator> open_communicator(const std::string& engine, const std::vector<std::string>& libraries,
                                                const CommunicatorOptions& options, std::vector<Attempt>& attempts);

}  // namespace grpo_native
