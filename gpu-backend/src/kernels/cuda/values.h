#pragma once

#include "formats.h"

namespace sluice {

/// Norm weights, gates and embeddings: fp32 or bfloat16, read value by value.
struct Values {
  const void* data;
  DType dtype;
  int reserved;

  SLUICE_DEVICE float operator[](int64_t index) const {
    if (dtype == DType::f32) return static_cast<const float*>(data)[index];
    return fromBf16(static_cast<const uint16_t*>(data)[index]);
  }
};

}  // namespace sluice
