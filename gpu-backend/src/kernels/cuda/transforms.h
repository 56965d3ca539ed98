#pragma once

#include "formats.h"
#include "warp.h"

// What is done to keys and queries one row at a time, by a warp on values in shared memory.

namespace sluice {

/// The angle is the fp32 product of position and frequency, as the weights were trained.
SLUICE_DEVICE void rotatePair(float* pair, int position, float frequency) {
  float sine;
  float cosine;
  sincosf(__fmul_rn(static_cast<float>(position), frequency), &sine, &cosine);
  const float a = pair[0];
  const float b = pair[1];
  pair[0] = a * cosine - b * sine;
  pair[1] = a * sine + b * cosine;
}

/// The last 2·pairs of `width` values.
SLUICE_DEVICE void rotateRow(float* values, int width, const float* frequencies, int pairs,
                             int position) {
  float* const rotated = values + width - 2 * pairs;
  for (int i = laneOf(); i < pairs; i += 32) rotatePair(rotated + 2 * i, position, frequencies[i]);
}

/// Walsh–Hadamard in natural order, made orthogonal; `width` is a power of two of at least 32.
SLUICE_DEVICE void walshHadamard(float* values, int width) {
  for (int distance = 1; distance < width; distance *= 2) {
    __syncwarp();
    for (int pair = laneOf(); pair < width / 2; pair += 32) {
      const int i = 2 * distance * (pair / distance) + pair % distance;
      const float a = values[i];
      const float b = values[i + distance];
      values[i] = a + b;
      values[i + distance] = a - b;
    }
  }
  __syncwarp();
  const float scale = 1.0f / sqrtf(static_cast<float>(width));
  for (int i = laneOf(); i < width; i += 32) values[i] *= scale;
}

/// What FP8 leaves of `count` values, a multiple of 64, that share scales 64 at a time.
SLUICE_DEVICE void roundKey(float* values, int count) {
  for (int at = 0; at < count; at += keyBlock) {
    float* const pair = values + at + 2 * laneOf();
    const uint32_t first = magnitudeBits(pair[0]);
    const uint32_t second = magnitudeBits(pair[1]);
    const float scale = fp8Scale(warpMaxBits(first > second ? first : second));
    const float inverse = 1.0f / scale;
    pair[0] = roundE4m3(pair[0] * inverse) * scale;
    pair[1] = roundE4m3(pair[1] * inverse) * scale;
  }
}

/// What FP4 leaves, 32 at a time.
SLUICE_DEVICE void roundIndexKey(float* values, int count) {
  for (int at = 0; at < count; at += indexBlock) {
    float& value = values[at + laneOf()];
    const float scale = fp4Scale(warpMaxBits(magnitudeBits(value)));
    value = fromE2m1(codeOfE2m1(value * (1.0f / scale))) * scale;
  }
}

}  // namespace sluice
