#include "error_record.h"

#include <cstdarg>
#include <cstdio>

// Not in the header: files for one instruction set include that, and define no function that another file might get.
grpo_status ErrorRecord::fail(grpo_status status, const char* format, ...) {
  char message[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  error = message;
  return status_ = status;
}
