#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu.h"

// The number formats of a V4 checkpoint, value by value. All of it is branch-free enough for the
// compiler to vectorise where a loop calls it.

namespace sluice {

/// Sides of what shares one scale: a run of an FP4 row, a tile of an FP8 matrix.
constexpr int fp4Run = 32;
constexpr int fp8Tile = 128;
/// Inputs of an FP8 or FP4 linear are rounded this many at a time.
constexpr int activationBlock = 128;

SLUICE_INLINE uint32_t bitsOfFloat(float value) { return std::bit_cast<uint32_t>(value); }
SLUICE_INLINE float floatOfBits(uint32_t bits) { return std::bit_cast<float>(bits); }

SLUICE_INLINE float fromBf16(uint16_t code) { return floatOfBits(uint32_t{code} << 16); }

/// To nearest, ties to even; NaN stays NaN.
SLUICE_INLINE uint16_t toBf16(float value) {
  const uint32_t bits = bitsOfFloat(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const bool isNan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>(isNan ? (bits >> 16) | 0x40 : rounded);
}

/// 2^(byte − 127): the byte is the exponent field, except that 0 is a subnormal and 255 no number.
SLUICE_INLINE float fromE8m0(uint8_t byte) {
  if (byte == 255) return std::numeric_limits<float>::quiet_NaN();
  return floatOfBits(byte == 0 ? 0x00400000u : uint32_t{byte} << 23);
}

SLUICE_INLINE float fromE4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude =
      exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                    : floatOfBits(static_cast<uint32_t>(exponent + 120) << 23 | uint32_t(mantissa) << 20);
  return code & 0x80 ? -magnitude : magnitude;
}

/// Twice the value of an e2m1 code, which is an integer.
constexpr int8_t doubledE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// The smallest power of two that is not below a positive, normal value.
SLUICE_INLINE float pow2ceil(float value) {
  const uint32_t bits = bitsOfFloat(value);
  return floatOfBits((bits + 0x007fffff) & 0x7f800000);
}

/// The e4m3 value nearest to `value`, ties to even, clamped to ±448. NaN stays NaN.
SLUICE_INLINE float roundE4m3(float value) {
  const uint32_t sign = bitsOfFloat(value) & 0x80000000u;
  const uint32_t magnitudeBits = bitsOfFloat(value) & 0x7fffffffu;
  const uint32_t clamped = magnitudeBits > 0x7f800000u ? magnitudeBits
                           : magnitudeBits > 0x43e00000u ? 0x43e00000u : magnitudeBits;
  const uint32_t normal = (clamped + 0x7ffff + ((clamped >> 20) & 1)) & 0xfff00000u;
  // Below 2^-6 the grid is 2^-9: the last place of a float at 2^14.
  const float magnitude = floatOfBits(clamped);
  const float small = (magnitude + 0x1p14f) - 0x1p14f;
  const uint32_t rounded = clamped < 0x3c800000u ? bitsOfFloat(small) : normal;
  return floatOfBits((magnitudeBits > 0x7f800000u ? magnitudeBits : rounded) | sign);
}

/// Bits of the largest magnitude: ordered as integers, NaN above infinity above every number.
SLUICE_INLINE uint32_t largestBits(const float* values, int count) {
  uint32_t largest = 0;
  for (int i = 0; i < count; i++) {
    const uint32_t bits = bitsOfFloat(values[i]) & 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

/// What survives FP8 with one shared scale: e4m3(x ÷ s)·s, s = pow2ceil(amax ÷ 448), amax ≥ 1e-4.
SLUICE_INLINE void simulateFp8(const float* values, float* into, int count) {
  const uint32_t largest = largestBits(values, count);
  const float amax = floatOfBits(largest > 0x38d1b717u ? largest : 0x38d1b717u);
  const float scale = pow2ceil(amax * (1.0f / 448.0f));
  const float inverse = 1.0f / scale;
  for (int i = 0; i < count; i++) into[i] = roundE4m3(values[i] * inverse) * scale;
}

}  // namespace sluice
