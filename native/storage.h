// One block of device memory, and why its content cannot be used, if so.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace grpo_native {

// What a tensor's reader is told. `code` is the code of a GrpoError (src/errors.ts).
struct Failure {
  const char* code;
  std::string message;
};
using FailurePtr = std::shared_ptr<const Failure>;

// Created and destroyed on the JavaScript thread or with a job; between the two only the engine's thread touches `data`
// and `failure`.
struct Storage {
  explicit Storage(size_t bytes) : bytes(bytes), adopted(false) {}
  Storage(size_t bytes, void* data, bool kept) : bytes(bytes), adopted(true), kept(kept), data(data) {}

  const size_t bytes;
  const bool adopted;       // somebody else's memory: never released
  const bool kept = false;  // an object of JavaScript keeps it alive, and is told when the memory is no longer used
  void* data = nullptr;     // nullptr until allocated, and for good when that failed
  FailurePtr failure;
};

}  // namespace grpo_native
