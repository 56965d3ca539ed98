#pragma once

#include <cstdint>
#include <limits>

#include "../native/cpu.h"
#include "../native/formats.h"
#include "../native/query-dots.h"

// Softmax by blocks: each block's weights relative to its own largest score, blocks brought together
// one after the other.

namespace sluice {

/// e^x for x ≤ 0 to 2^-23 of it; 0 below −87, NaN for NaN. x = n·ln 2 + r, |r| ≤ ln 2 ÷ 2; eight terms
/// of e^r leave 5e-9. Adding 1.5·2^23 rounds n and leaves it in the last bits, from where it is an
/// exponent.
SLUICE_INLINE float expOf(float x) {
  constexpr float shifter = 0x1.8p23f;
  const float shifted = x * 0x1.715476p0f + shifter;
  const float n = shifted - shifter;
  // The first part of ln 2 has nine bits, so that its product is exact.
  const float r = (x - n * 0x1.63p-1f) - n * -0x1.bd0106p-13f;
  float sum = 1.0f / 5040.0f;
  sum = sum * r + 1.0f / 720.0f;
  sum = sum * r + 1.0f / 120.0f;
  sum = sum * r + 1.0f / 24.0f;
  sum = sum * r + 1.0f / 6.0f;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const float power = floatOfBits((bitsOfFloat(shifted) + 127) << 23);
  // A mask instead of a choice between floats: that the compiler would make a branch.
  const uint32_t kept = x < -87.0f ? 0u : ~0u;
  return floatOfBits(bitsOfFloat(sum * power) & kept);
}

/// What some keys leave of sixteen heads: their largest scores, and relative to those the sums of
/// weights and of weighted values `[16][stride]`.
struct Partial {
  float* largest;
  float* weights;
  float* sums;
  int64_t stride;

  static int64_t floats(int64_t stride) { return queryGroup * (stride + 2); }
  static Partial at(float* memory, int64_t stride) {
    return {memory + queryGroup * stride, memory + queryGroup * (stride + 1), memory, stride};
  }
};

/// Scores `[count][16]` to weights in place.
SLUICE_INLINE void softmaxBody(float* scores, int64_t count, float scale, float* largest,
                               float* total) {
  // Local arrays, which no pointer can alias, become registers.
  float most[queryGroup];
  float sum[queryGroup] = {};
  for (float& value : most) value = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < count; j++) {
    for (int h = 0; h < queryGroup; h++) {
      const float score = scores[j * queryGroup + h] * scale;
      scores[j * queryGroup + h] = score;
      most[h] = most[h] >= score ? most[h] : score;
    }
  }
  for (int64_t j = 0; j < count; j++) {
    for (int h = 0; h < queryGroup; h++) scores[j * queryGroup + h] -= most[h];
  }
  for (int64_t i = 0; i < count * queryGroup; i++) scores[i] = expOf(scores[i]);
  for (int64_t j = 0; j < count; j++) {
    for (int h = 0; h < queryGroup; h++) sum[h] += scores[j * queryGroup + h];
  }
  for (int h = 0; h < queryGroup; h++) {
    largest[h] = most[h];
    total[h] = sum[h];
  }
}

SLUICE_PER_ISA(softmax, softmaxBody,
               (float* scores, int64_t count, float scale, float* largest, float* total),
               (scores, count, scale, largest, total))

/// Adds `block` to `all`, both brought to the larger of their largest scores.
SLUICE_INLINE void mergeBody(const Partial& all, const Partial& block, int64_t heads,
                             int64_t width) {
  for (int64_t h = 0; h < heads; h++) {
    const float a = all.largest[h];
    const float b = block.largest[h];
    const float largest = a >= b ? a : b;
    const float ofAll = expOf(a - largest);
    const float ofBlock = expOf(b - largest);
    all.largest[h] = largest;
    all.weights[h] = all.weights[h] * ofAll + block.weights[h] * ofBlock;
    float* into = all.sums + h * all.stride;
    const float* from = block.sums + h * all.stride;
    for (int64_t d = 0; d < width; d++) into[d] = into[d] * ofAll + from[d] * ofBlock;
  }
}

SLUICE_PER_ISA(merge, mergeBody,
               (const Partial& all, const Partial& block, int64_t heads, int64_t width),
               (all, block, heads, width))

}  // namespace sluice
