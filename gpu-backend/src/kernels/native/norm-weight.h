#pragma once

#include "formats.h"
#include "op.h"

namespace sluice {

/// A norm's weight in fp32, whichever of fp32 and bfloat16 the checkpoint has it in.
inline const float* normWeight(Context& context, const Tensor& weight) {
  if (weight.dtype == DType::f32) return weight.as<const float>();
  if (weight.dtype != DType::bf16) {
    throw OpError("unsupported_op", "a norm's weight is fp32 or bfloat16");
  }
  const int64_t count = weight.count();
  float* widened = context.scratch.take<float>(count);
  for (int64_t i = 0; i < count; i++) widened[i] = fromBf16(weight.as<const uint16_t>()[i]);
  return widened;
}

}  // namespace sluice
