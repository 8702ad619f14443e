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
  Storage(size_t bytes, void* data) : bytes(bytes), adopted(true), data(data) {}

  const size_t bytes;
  const bool adopted;    // somebody else's memory: never released
  void* data = nullptr;  // nullptr until allocated, and for good when that failed
  FailurePtr failure;
};

}  // namespace grpo_native
