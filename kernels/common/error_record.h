// The error of a context's last call that failed.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <string>

#include "../include/grpo.h"

class ErrorRecord {
 public:
  // Records a message for grpo_backend::last_error and returns `status`.
  __attribute__((format(printf, 3, 4))) grpo_status fail(grpo_status status, const char* format, ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    error = message;
    return status_ = status;
  }
  // Of the last failure.
  grpo_status status() const { return status_; }

  std::string error;

 private:
  grpo_status status_ = GRPO_OK;
};
