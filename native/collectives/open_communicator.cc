#include "open_communicator.h"

#include <dlfcn.h>

#include "nccl.h"

namespace grpo_native {

namespace {

std::unique_ptr<Communicator> open_gloo(const std::vector<std::string>& libraries, const CommunicatorOptions& options,
                                        std::vector<Attempt>& attempts) {
  for (const std::string& path : libraries) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      const char* reason = dlerror();
      attempts.push_back({path, "load", reason ? reason : "dlopen failed"});
      continue;
    }
    const auto version = reinterpret_cast<uint32_t (*)()>(dlsym(library, "grpo_gloo_version"));
    const auto open = reinterpret_cast<GlooOpen>(dlsym(library, "grpo_gloo_open"));
    if (!version || !open || version() != kGlooLibraryVersion) {
      attempts.push_back({path, "abi", "it was built for another version of the addon"});
      dlclose(library);
      continue;
    }
    std::string error;
    std::unique_ptr<Communicator> communicator(open(options, error));
    if (!communicator) attempts.push_back({path, "device", error});
    return communicator;
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Communicator> open_communicator(const std::string& engine, const std::vector<std::string>& libraries,
                                                const CommunicatorOptions& options, std::vector<Attempt>& attempts) {
  if (engine == "nccl") return open_nccl(libraries, options, attempts);
  return open_gloo(libraries, options, attempts);
}

}  // namespace grpo_native
