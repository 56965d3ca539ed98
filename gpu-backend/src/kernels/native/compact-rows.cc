#include "compact-rows.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "formats.h"
#include "key-finish.h"

namespace sluice {
namespace {

/// The exponent byte of a power of two; 255 for what comes of values that are no numbers.
SLUICE_INLINE uint8_t scaleByte(float scale) {
  const uint32_t byte = bitsOfFloat(scale) >> 23;
  return byte == 0 || byte > 254 ? uint8_t{255} : static_cast<uint8_t>(byte);
}

/// The code of what `roundE4m3` gives back.
SLUICE_INLINE int32_t e4m3Code(float rounded) {
  const uint32_t bits = bitsOfFloat(rounded);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const int32_t normal = static_cast<int32_t>(magnitude >> 20) - (120 << 3);
  // Below 2^-6 in steps of 2^-9.
  const int32_t small = static_cast<int32_t>(floatOfBits(magnitude < 0x3c800000u ? magnitude : 0) * 512.0f);
  const int32_t finite = magnitude < 0x3c800000u ? small : normal;
  const int32_t code = magnitude > 0x7f800000u ? 0x7f : finite;
  return code | static_cast<int32_t>((bits >> 24) & 0x80);
}

SLUICE_INLINE int32_t e2m1Code(float value) {
  const float magnitude = std::fabs(value);
  const int code = (magnitude > 0.25f) + (magnitude >= 0.75f) + (magnitude > 1.25f) +
                   (magnitude >= 1.75f) + (magnitude > 2.5f) + (magnitude >= 3.5f) +
                   (magnitude > 5.0f);
  return code | static_cast<int32_t>((bitsOfFloat(value) >> 28) & 8);
}

/// All ones where `a` < `b`, of small numbers; loops of it become vectors in every instruction set.
SLUICE_INLINE uint32_t maskBelow(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<int32_t>(a - b) >> 31);
}

/// `fromE4m3` without a branch, for loops over codes. Below 2^-6 codes are as far apart as in the
/// next binade, whose values are 2^-6 larger: nothing is ever a subnormal.
SLUICE_INLINE float valueOfE4m3(uint32_t code) {
  const uint32_t magnitude = code & 0x7f;
  const uint32_t small = maskBelow(magnitude, 8);
  const float larger = floatOfBits((magnitude << 20) + (120u << 23) + (small & 1u << 23));
  const float value = larger - floatOfBits(small & bitsOfFloat(0x1p-6f));
  const uint32_t nan = maskBelow(0x7e, magnitude) & 0x7fc00000u;
  return floatOfBits(bitsOfFloat(value) | (code & 0x80) << 24 | nan);
}

/// The same for e2m1: two bits of exponent and one of mantissa from 1 on, halves below.
SLUICE_INLINE float valueOfE2m1(uint32_t code) {
  const uint32_t magnitude = code & 7;
  const uint32_t small = maskBelow(magnitude, 2);
  const float larger = floatOfBits((magnitude << 22) + (126u << 23) + (small & 1u << 23));
  const float value = larger - floatOfBits(small & bitsOfFloat(1.0f));
  return floatOfBits(bitsOfFloat(value) | (code & 8) << 28);
}

SLUICE_INLINE void encodeKey(const CompactLayout& layout, const float* __restrict values,
                             uint8_t* __restrict row) {
  const int64_t plain = layout.plain;
  uint8_t* scales = row + plain + 2 * layout.rotated;
  for (int64_t at = 0; at < plain; at += keyBlock) {
    const uint32_t largest = largestBits(values + at, keyBlock);
    const float amax = floatOfBits(largest > 0x38d1b717u ? largest : 0x38d1b717u);
    const float scale = pow2ceil(amax * (1.0f / 448.0f));
    const float inverse = 1.0f / scale;
    int32_t codes[keyBlock];
    for (int i = 0; i < keyBlock; i++) codes[i] = e4m3Code(roundE4m3(values[at + i] * inverse));
    for (int i = 0; i < keyBlock; i++) row[at + i] = static_cast<uint8_t>(codes[i]);
    scales[at / keyBlock] = scaleByte(scale);
  }
  for (int64_t i = 0; i < layout.rotated; i++) {
    const uint16_t code = toBf16(values[plain + i]);
    row[plain + 2 * i] = static_cast<uint8_t>(code);
    row[plain + 2 * i + 1] = static_cast<uint8_t>(code >> 8);
  }
  const int64_t written = plain + 2 * layout.rotated + plain / keyBlock;
  std::memset(row + written, 0, static_cast<size_t>(layout.bytes() - written));
}

SLUICE_INLINE void decodeKey(const CompactLayout& layout, const uint8_t* __restrict row,
                             float* __restrict values) {
  const int64_t plain = layout.plain;
  const uint8_t* scales = row + plain + 2 * layout.rotated;
  for (int64_t at = 0; at < plain; at += keyBlock) {
    const float scale = fromE8m0(scales[at / keyBlock]);
    for (int i = 0; i < keyBlock; i++) values[at + i] = valueOfE4m3(row[at + i]) * scale;
  }
  for (int64_t i = 0; i < layout.rotated; i++) {
    const uint32_t code = uint32_t{row[plain + 2 * i]} | uint32_t{row[plain + 2 * i + 1]} << 8;
    values[plain + i] = floatOfBits(code << 16);
  }
}

SLUICE_INLINE void encodeIndexKey(const float* __restrict values, int64_t width,
                                  uint8_t* __restrict row) {
  for (int64_t at = 0; at < width; at += indexBlock) {
    const uint32_t smallest = bitsOfFloat(6.0f * 0x1p-126f);
    const uint32_t largest = largestBits(values + at, indexBlock);
    const float amax = floatOfBits(largest > smallest ? largest : smallest);
    const float scale = pow2ceil(amax * (1.0f / 6.0f));
    const float inverse = 1.0f / scale;
    int32_t codes[indexBlock];
    for (int i = 0; i < indexBlock; i++) codes[i] = e2m1Code(values[at + i] * inverse);
    for (int i = 0; i < indexBlock; i += 2) {
      row[(at + i) / 2] = static_cast<uint8_t>(codes[i] | codes[i + 1] << 4);
    }
    row[width / 2 + at / indexBlock] = scaleByte(scale);
  }
}

SLUICE_INLINE void decodeIndexKey(const uint8_t* __restrict row, int64_t width,
                                  float* __restrict values) {
  for (int64_t at = 0; at < width; at += indexBlock) {
    const float scale = fromE8m0(row[width / 2 + at / indexBlock]);
    float low[indexBlock / 2];
    float high[indexBlock / 2];
    for (int i = 0; i < indexBlock / 2; i++) {
      const uint32_t pair = row[at / 2 + i];
      low[i] = valueOfE2m1(pair & 15) * scale;
      high[i] = valueOfE2m1(pair >> 4) * scale;
    }
    for (int i = 0; i < indexBlock / 2; i++) {
      values[at + 2 * i] = low[i];
      values[at + 2 * i + 1] = high[i];
    }
  }
}

SLUICE_INLINE void encodeBody(const CompactLayout& layout, const float* values, uint8_t* row) {
  if (layout.index) {
    encodeIndexKey(values, layout.plain, row);
  } else {
    encodeKey(layout, values, row);
  }
}

SLUICE_INLINE void decodeBody(const CompactLayout& layout, const uint8_t* row, float* values) {
  if (layout.index) {
    decodeIndexKey(row, layout.plain, values);
  } else {
    decodeKey(layout, row, values);
  }
}

SLUICE_PER_ISA(encodeRow, encodeBody,
               (const CompactLayout& layout, const float* values, uint8_t* row),
               (layout, values, row))
SLUICE_PER_ISA(decodeRow, decodeBody,
               (const CompactLayout& layout, const uint8_t* row, float* values),
               (layout, row, values))

}  // namespace

int64_t CompactLayout::bytes() const {
  if (index) return plain / 2 + plain / indexBlock;
  return (plain + 2 * rotated + plain / keyBlock + 7) / 8 * 8;
}

CompactCodec compactCodec(Isa isa) { return {encodeRow(isa), decodeRow(isa)}; }

bool holdsCompactRows(const Tensor& cached, const CompactLayout& layout) {
  const int64_t extent = cached.rank == 3 ? cached.shape[2] : -1;
  if (cached.dtype == DType::f32 && extent == layout.width()) return false;
  if (cached.dtype == DType::u8 && extent == layout.bytes()) return true;
  throw OpError("unsupported_op", "cached rows of " + std::to_string(extent) + " elements of type " +
                                      std::to_string(int(cached.dtype)) + " are not " +
                                      std::to_string(layout.width()) + " of fp32 or " +
                                      std::to_string(layout.bytes()) + " bytes");
}

}  // namespace sluice
