#pragma once

#include "platform.h"

// The number formats of a V4 checkpoint and of its cache, value by value (`numerics/*.ts` defines them).

namespace sluice {

/// Element types by the numbers the launchers give them.
enum class DType : int { f32 = 0, bf16 = 1, f8e4m3 = 4, fp4 = 6, u8 = 7 };

constexpr int fp4Run = 32;
constexpr int fp8Tile = 128;
constexpr int activationBlock = 128;
constexpr int keyBlock = 64;
constexpr int indexBlock = 32;

SLUICE_DEVICE float quietNaN() { return __uint_as_float(0x7fc00000u); }
SLUICE_DEVICE uint32_t magnitudeBits(float x) { return __float_as_uint(x) & 0x7fffffffu; }

SLUICE_DEVICE float fromBf16(uint32_t code) { return __uint_as_float(code << 16); }

/// To nearest, ties to even; NaN stays NaN.
SLUICE_DEVICE uint32_t toBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/// Two bfloat16, the first in the lower half.
SLUICE_DEVICE uint32_t packBf16(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return toBf16(low) | toBf16(high) << 16;
#endif
}

/// 2^(byte − 127); 0 is subnormal and 255 no number.
SLUICE_DEVICE float fromE8m0(uint32_t byte) {
  if (byte == 255) return quietNaN();
  return __uint_as_float(byte == 0 ? 0x00400000u : byte << 23);
}

/// A finite e4m3 code. Its fields at their places in a float make a value 2^120 too small, subnormals
/// included.
SLUICE_DEVICE float fromE4m3(uint32_t code) {
  return __uint_as_float((code & 0x7fu) << 20 | (code & 0x80u) << 24) * 0x1p120f;
}

/// Any e4m3 code.
SLUICE_DEVICE float fromAnyE4m3(uint32_t code) {
  return (code & 0x7fu) == 0x7fu ? quietNaN() : fromE4m3(code);
}

/// The same for e2m1, whose exponent's bias is 1.
SLUICE_DEVICE float fromE2m1(uint32_t code) {
  return __uint_as_float((code & 7u) << 22 | (code & 8u) << 28) * 0x1p126f;
}

/// The smallest power of two that is not below a positive, normal value.
SLUICE_DEVICE float pow2ceil(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x007fffffu) & 0x7f800000u);
}

/// What a block whose largest magnitude has these bits is divided by on its way to FP8.
SLUICE_DEVICE float fp8Scale(uint32_t largest) {
  const uint32_t floor = 0x38d1b717u;  // 1e-4
  return pow2ceil(__fmul_rn(__uint_as_float(largest > floor ? largest : floor), 1.0f / 448.0f));
}

/// And to FP4.
SLUICE_DEVICE float fp4Scale(uint32_t largest) {
  const uint32_t floor = __float_as_uint(6.0f * 0x1p-126f);
  return pow2ceil(__fmul_rn(__uint_as_float(largest > floor ? largest : floor), 1.0f / 6.0f));
}

/// The exponent byte of a scale; 255 for what comes of values that are no numbers.
SLUICE_DEVICE uint32_t scaleByte(float scale) {
  const uint32_t byte = __float_as_uint(scale) >> 23;
  return byte == 0 || byte > 254 ? 255u : byte;
}

/// The e4m3 value nearest to `value`, ties to even, clamped to ±448. NaN stays NaN.
SLUICE_DEVICE float roundE4m3(float value) {
  const uint32_t sign = __float_as_uint(value) & 0x80000000u;
  const uint32_t bits = magnitudeBits(value);
  if (bits > 0x7f800000u) return value;
  const uint32_t clamped = bits > 0x43e00000u ? 0x43e00000u : bits;
  const uint32_t normal = (clamped + 0x7ffffu + ((clamped >> 20) & 1u)) & 0xfff00000u;
  // Below 2^-6 the grid is 2^-9: the last place of a float at 2^14.
  const float small = (__uint_as_float(clamped) + 0x1p14f) - 0x1p14f;
  return __uint_as_float((clamped < 0x3c800000u ? __float_as_uint(small) : normal) | sign);
}

/// The code of what `roundE4m3` gives back.
SLUICE_DEVICE uint32_t codeOfE4m3(float rounded) {
  const uint32_t bits = magnitudeBits(rounded);
  const uint32_t sign = (__float_as_uint(rounded) >> 24) & 0x80u;
  if (bits > 0x7f800000u) return 0x7fu;
  if (bits < 0x3c800000u) return sign | static_cast<uint32_t>(__uint_as_float(bits) * 512.0f);
  return sign | ((bits >> 20) - (120u << 3));
}

/// The code of the nearest e2m1 value: each bound belongs to the even one of its neighbours.
SLUICE_DEVICE uint32_t codeOfE2m1(float value) {
  const float m = fabsf(value);
  const uint32_t code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) +
                        (m >= 3.5f) + (m > 5.0f);
  return code | ((__float_as_uint(value) >> 28) & 8u);
}

}  // namespace sluice
