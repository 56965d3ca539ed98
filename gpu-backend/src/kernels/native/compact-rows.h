#pragma once

#include <cstdint>

#include "cpu.h"
#include "op.h"

// Cached rows as the codes and scales they were rounded to (`numerics/compact-rows.ts`):
//
//   key        plain e4m3 | rotated bf16 | plain ÷ 64 e8m0 | zeros up to a multiple of 8 bytes
//   index key  width ÷ 2 bytes of e2m1, low nibble first | width ÷ 32 e8m0

namespace sluice {

struct CompactLayout {
  bool index;
  int64_t plain;
  int64_t rotated;

  static CompactLayout key(int64_t width, int64_t rotated) {
    return {false, width - rotated, rotated};
  }
  static CompactLayout indexKey(int64_t width) { return {true, width, 0}; }

  int64_t width() const { return plain + rotated; }
  int64_t bytes() const;
};

/// Values → bytes and back, one row at a time.
struct CompactCodec {
  void (*encode)(const CompactLayout& layout, const float* values, uint8_t* row);
  void (*decode)(const CompactLayout& layout, const uint8_t* row, float* values);
};

CompactCodec compactCodec(Isa isa);

/// Whether a cache tensor's rows are compact; refuses rows that are neither that nor fp32.
bool holdsCompactRows(const Tensor& cached, const CompactLayout& layout);

}  // namespace sluice
