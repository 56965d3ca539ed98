#pragma once

#include <exception>
#include <string>

namespace sluice {

/// A refusal with one of the device error codes of `device.ts`; the addon rethrows it to JavaScript.
class OpError : public std::exception {
 public:
  OpError(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* code() const { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  const char* code_;
  std::string message_;
};

}  // namespace sluice
