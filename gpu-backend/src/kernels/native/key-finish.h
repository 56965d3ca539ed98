#pragma once

#include <cmath>
#include <cstdint>

#include "cpu.h"
#include "formats.h"

// What happens to a vector on its way into a cache or before it meets one: norm, Walsh–Hadamard,
// rounding. In double wherever the reference is, each stage rounded to fp32 once as it is there, so
// that the blocks which follow see the same fp32 values: rounding to FP8 or FP4 turns one ulp into a
// whole step where it moves a value over a boundary.

namespace sluice {

/// Cached keys outside the rotation share a scale this many at a time, index keys and queries
/// `indexBlock`.
constexpr int keyBlock = 64;
constexpr int indexBlock = 32;

/// 1 / sqrt(mean(x²) + eps). Sixteen chains; a square of an fp32 is exact in double.
SLUICE_INLINE double inverseRms(const float* values, int64_t count, double eps) {
  double chains[16] = {};
  int64_t at = 0;
  for (; at + 16 <= count; at += 16) {
    for (int i = 0; i < 16; i++) chains[i] += double(values[at + i]) * double(values[at + i]);
  }
  double sum = 0;
  for (double chain : chains) sum += chain;
  for (; at < count; at++) sum += double(values[at]) * double(values[at]);
  return 1.0 / std::sqrt(sum / static_cast<double>(count) + eps);
}

/// x · weight / rms(x).
SLUICE_INLINE void rmsNorm(float* values, const float* weight, int64_t count, double eps) {
  const double inverse = inverseRms(values, count, eps);
  for (int64_t i = 0; i < count; i++) {
    values[i] = static_cast<float>(double(values[i]) * inverse * double(weight[i]));
  }
}

SLUICE_INLINE void simulateKeys(float* values, int64_t count) {
  for (int64_t at = 0; at < count; at += keyBlock) simulateFp8(values + at, values + at, keyBlock);
}

/// The e2m1 value nearest to `value`, ties to the even code, clamped to ±6. NaN stays NaN. Each
/// bound is the midpoint of two codes and belongs to the even one.
SLUICE_INLINE float roundE2m1(float value) {
  const float magnitude = std::fabs(value);
  float rounded = magnitude > 0.25f ? 0.5f : 0.0f;
  rounded = magnitude >= 0.75f ? 1.0f : rounded;
  rounded = magnitude > 1.25f ? 1.5f : rounded;
  rounded = magnitude >= 1.75f ? 2.0f : rounded;
  rounded = magnitude > 2.5f ? 3.0f : rounded;
  rounded = magnitude >= 3.5f ? 4.0f : rounded;
  rounded = magnitude > 5.0f ? 6.0f : rounded;
  return magnitude != magnitude ? value : std::copysign(rounded, value);
}

/// What survives FP4: per 32, e2m1(x ÷ s)·s with s = pow2ceil(amax ÷ 6), amax ≥ 6·2^-126.
SLUICE_INLINE void simulateIndex(float* values, int64_t count) {
  for (int64_t at = 0; at < count; at += indexBlock) {
    float* block = values + at;
    const uint32_t smallest = bitsOfFloat(6.0f * 0x1p-126f);
    const uint32_t largest = largestBits(block, indexBlock);
    const float amax = floatOfBits(largest > smallest ? largest : smallest);
    const float scale = pow2ceil(amax * (1.0f / 6.0f));
    const float inverse = 1.0f / scale;
    for (int i = 0; i < indexBlock; i++) block[i] = roundE2m1(block[i] * inverse) * scale;
  }
}

/// Pairs at `distance`: (a, b) → (a + b, a − b).
SLUICE_INLINE void butterflies(double* values, int64_t count, int64_t distance) {
  for (int64_t from = 0; from < count; from += 2 * distance) {
    double* low = values + from;
    double* high = low + distance;
    for (int64_t i = 0; i < distance; i++) {
      const double a = low[i];
      const double b = high[i];
      low[i] = a + b;
      high[i] = a - b;
    }
  }
}

/// Orthogonal Walsh–Hadamard transform in natural order; `count` is a power of two of at least 8.
/// `work` holds 2·`count` doubles. The first three stages pair neighbours: they are done on the
/// transposed `[8][count ÷ 8]`, where neighbours are rows and whole rows can be added. Stages keep
/// their order, so every sum is the reference's.
SLUICE_INLINE void walshHadamard(float* values, int64_t count, double* work) {
  const int64_t groups = count / 8;
  for (int64_t group = 0; group < groups; group++) {
    for (int i = 0; i < 8; i++) work[i * groups + group] = values[group * 8 + i];
  }
  for (int64_t distance = 1; distance < 8; distance *= 2) butterflies(work, count, distance * groups);
  double* natural = work + count;
  for (int64_t group = 0; group < groups; group++) {
    for (int i = 0; i < 8; i++) natural[group * 8 + i] = work[i * groups + group];
  }
  for (int64_t distance = 8; distance < count; distance *= 2) butterflies(natural, count, distance);
  const double scale = std::pow(static_cast<double>(count), -0.5);
  for (int64_t i = 0; i < count; i++) values[i] = static_cast<float>(natural[i] * scale);
}

}  // namespace sluice
