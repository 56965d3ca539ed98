#pragma once

#include <stdexcept>
#include <string>

namespace sluice {

/// A refusal with one of the device error codes of `device.ts`; the addon rethrows it to JavaScript.
class OpError : public std::runtime_error {
 public:
  OpError(const char* code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  const char* code() const { return code_; }

 private:
  const char* code_;
};

}  // namespace sluice
