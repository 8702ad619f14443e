// Collectives over NCCL, on CUDA devices.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../mailbox.h"
#include "communicator.h"

namespace grpo_native {

// nullptr when NCCL or the CUDA driver cannot be used; `attempts` then says why. `libraries`: names or paths of
// libnccl.
std::unique_ptr<Communicator> open_nccl(const std::vector<std::string>& libraries, const CommunicatorOptions& options,
                                        std::vector<Attempt>& attempts);

}  // namespace grpo_native
