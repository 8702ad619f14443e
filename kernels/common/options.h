// Options of a backend, as grpo_backend::create takes them.
#pragma once

#include <sstream>
#include <string>

// The value of `key` in "key=value;key=value", or an empty string.
inline std::string grpo_option(const std::string& options, const std::string& key) {
  std::istringstream parts(options);
  for (std::string part; std::getline(parts, part, ';');) {
    if (part.compare(0, key.size() + 1, key + "=") == 0) return part.substr(key.size() + 1);
  }
  return "";
}
