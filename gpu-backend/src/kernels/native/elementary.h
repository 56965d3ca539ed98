#pragma once

#include <cstdint>

#include "formats.h"

// Elementary functions without branches or calls, so that loops over them become vectors. The same
// bits on every instruction set, since nothing is contracted.

namespace sluice {

/// e^x to within 2^-22 of its value: x = n·ln 2 + r with |r| ≤ ln 2 ÷ 2, a polynomial for e^r whose
/// error is 2^-26 there, and 2^n as two factors, so that subnormal results and overflow come out
/// right. NaN stays NaN.
SLUICE_INLINE float expOf(float x) {
  const float low = x < -105.0f ? -105.0f : x;
  const float bounded = low > 89.0f ? 89.0f : low;
  // The nearest integer, in the last places of a float at 1.5·2^23.
  const float shifted = bounded * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  // ln 2 in two parts; n·(first part) is exact.
  const float r = (bounded - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  const int32_t whole = static_cast<int32_t>(bitsOfFloat(shifted) - 0x4b400000u);
  const int32_t half = whole >> 1;
  const float first = floatOfBits(static_cast<uint32_t>(half + 127) << 23);
  const float second = floatOfBits(static_cast<uint32_t>(whole - half + 127) << 23);
  return p * first * second;
}

/// x·σ(x)
SLUICE_INLINE float siluOf(float x) { return x / (1.0f + expOf(-x)); }

}  // namespace sluice
