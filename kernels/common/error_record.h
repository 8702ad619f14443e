// The error of a context's last call that failed.
#pragma once

#include <string>

#include "../include/grpo.h"

class ErrorRecord {
 public:
  // Records a message for grpo_backend::last_error and returns `status`.
  __attribute__((format(printf, 3, 4))) grpo_status fail(grpo_status status, const char* format, ...);
  // Of the last failure.
  grpo_status status() const { return status_; }

  std::string error;

 private:
  grpo_status status_ = GRPO_OK;
};
