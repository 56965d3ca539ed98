#pragma once

#include "formats.h"
#include "warp.h"

// Cached rows as codes and scales, or as fp32 (`numerics/compact-rows.ts`):
//
//   key        plain e4m3 | rotated bf16 | plain ÷ 64 e8m0 | zeros up to a multiple of 8 bytes
//   index key  width ÷ 2 bytes of e2m1, low nibble first | width ÷ 32 e8m0

namespace sluice {

struct RowLayout {
  int plain;
  int rotated;
  /// Whether rows are codes; else fp32.
  int compact;
  /// Whether they are index keys.
  int index;

  SLUICE_DEVICE int width() const { return plain + rotated; }

  SLUICE_DEVICE float at(const uint8_t* row, int i) const {
    if (compact == 0) return reinterpret_cast<const float*>(row)[i];
    if (index != 0) {
      const float scale = fromE8m0(row[plain / 2 + i / indexBlock]);
      return fromE2m1(row[i / 2] >> (4 * (i % 2))) * scale;
    }
    if (i >= plain) return fromBf16(reinterpret_cast<const uint16_t*>(row + plain)[i - plain]);
    return fromAnyE4m3(row[i]) * fromE8m0(row[plain + 2 * rotated + i / keyBlock]);
  }

  /// Writes a row by one warp; `values` were rounded as the layout wants them.
  SLUICE_DEVICE void write(uint8_t* row, const float* values) const {
    if (compact == 0) {
      float* const into = reinterpret_cast<float*>(row);
      for (int i = laneOf(); i < width(); i += 32) into[i] = values[i];
    } else if (index != 0) {
      writeIndexKey(row, values);
    } else {
      writeKey(row, values);
    }
  }

  SLUICE_DEVICE void writeKey(uint8_t* row, const float* values) const {
    uint8_t* const scales = row + plain + 2 * rotated;
    for (int at = 0; at < plain; at += keyBlock) {
      const float* const pair = values + at + 2 * laneOf();
      const uint32_t first = magnitudeBits(pair[0]);
      const uint32_t second = magnitudeBits(pair[1]);
      const float scale = fp8Scale(warpMaxBits(first > second ? first : second));
      const float inverse = 1.0f / scale;
      const uint32_t low = codeOfE4m3(roundE4m3(pair[0] * inverse));
      const uint32_t high = codeOfE4m3(roundE4m3(pair[1] * inverse));
      reinterpret_cast<uint16_t*>(row + at)[laneOf()] = static_cast<uint16_t>(low | high << 8);
      if (laneOf() == 0) scales[at / keyBlock] = static_cast<uint8_t>(scaleByte(scale));
    }
    uint16_t* const turned = reinterpret_cast<uint16_t*>(row + plain);
    for (int i = laneOf(); i < rotated; i += 32) {
      turned[i] = static_cast<uint16_t>(toBf16(values[plain + i]));
    }
    const int written = plain + 2 * rotated + plain / keyBlock;
    const int bytes = (written + 7) / 8 * 8;
    if (laneOf() < bytes - written) row[written + laneOf()] = 0;
  }

  SLUICE_DEVICE void writeIndexKey(uint8_t* row, const float* values) const {
    for (int at = 0; at < plain; at += indexBlock) {
      const float value = values[at + laneOf()];
      const float scale = fp4Scale(warpMaxBits(magnitudeBits(value)));
      const uint32_t code = codeOfE2m1(value * (1.0f / scale));
      const uint32_t next = __shfl_xor_sync(allLanes, code, 1);
      if (laneOf() % 2 == 0) row[(at + laneOf()) / 2] = static_cast<uint8_t>(code | next << 4);
      if (laneOf() == 0) row[plain / 2 + at / indexBlock] = static_cast<uint8_t>(scaleByte(scale));
    }
  }
};

}  // namespace sluice
