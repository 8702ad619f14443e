#include "backend_loader.h"

#include <dlfcn.h>

namespace grpo_native {

namespace {

#define GRPO_CHECK_FUNCTION(op) \
  if (!backend->op) problem = "it has no function " #op;

// Whether the table was made for this addon; else what differs.
bool fits(const grpo_backend* backend, std::string& problem) {
  if (!backend) {
    problem = "it returned no table of functions";
  } else if (backend->abi_version != GRPO_ABI_VERSION) {
    problem = "expected ABI version " + std::to_string(GRPO_ABI_VERSION) + " but it has " +
              std::to_string(backend->abi_version);
  } else if (backend->struct_size != sizeof(grpo_backend)) {
    problem = "expected a table of " + std::to_string(sizeof(grpo_backend)) + " bytes but it has " +
              std::to_string(backend->struct_size);
  } else {
    GRPO_OPERATIONS(GRPO_CHECK_FUNCTION)
  }
  return problem.empty();
}

const grpo_backend* open_library(const std::string& path, Attempt& attempt) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    attempt = {path, "load", reason ? reason : "dlopen failed"};
    return nullptr;
  }
  using Entry = const grpo_backend* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "grpo_cuda_backend"));
  attempt = {path, "abi", ""};
  if (!entry) {
    attempt.message = "it does not export grpo_cuda_backend";
  } else if (const grpo_backend* backend = entry(); fits(backend, attempt.message)) {
    return backend;
  }
  dlclose(library);
  return nullptr;
}

}  // namespace

const grpo_backend* load_backend(const std::string& kind, const std::vector<std::string>& libraries,
                                 std::vector<Attempt>& attempts) {
  if (kind == "cpu") return grpo_cpu_backend();
  for (const std::string& path : libraries) {
    Attempt attempt;
    if (const grpo_backend* backend = open_library(path, attempt)) return backend;
    attempts.push_back(std::move(attempt));
  }
  return nullptr;
}

}  // namespace grpo_native
