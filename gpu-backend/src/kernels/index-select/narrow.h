#pragma once

#include <cstdint>

#include "../native/cpu.h"

// Index queries and keys as whole numbers. What was rounded to FP4 per 32 is exactly a run of small
// integers under a power of two, so integer dot products give the same sums as fp32 ones, without
// their roundings and several times as fast. Values that are no such numbers are recognised, and go
// through fp32 instead.

namespace sluice {

/// Values that share a unit.
constexpr int narrowRun = 32;

/// Sixteen queries: bytes `[width ÷ 4][16][4]`; by run `[width ÷ 32][16]` their units, and −128·Σ of
/// the bytes, which undoes what the keys' have too much.
struct NarrowQueries {
  int8_t* codes;
  float* units;
  int32_t* starts;
};

/// Some keys one after the other: bytes plus 128 `[width]`, units `[width ÷ 32]`.
struct NarrowKeys {
  uint8_t* codes;
  float* units;
};

/// Null where the machine has no dot product of bytes.
struct NarrowKernels {
  /// Writes down `count` ≤ 16 queries that lie one after the other; false, and nothing of use, where
  /// one of them is not narrow.
  bool (*queries)(const float* values, int64_t count, int64_t width, const NarrowQueries& into);
  /// Writes down a key at `index`, likewise.
  bool (*key)(const float* values, int64_t width, const NarrowKeys& into, int64_t index);
  /// The same of a compact row; false also where only its values can tell.
  bool (*compactKey)(const uint8_t* row, int64_t width, const NarrowKeys& into, int64_t index);
  /// dots[j][16] for `count` keys, as `QueryDots`: exact sums over runs of 32, and those one after
  /// the other in fp32.
  void (*dots)(const NarrowQueries& queries, int64_t width, const NarrowKeys& keys, int64_t count,
               float* dots);
};

const NarrowKernels* narrowKernels(Isa isa);

}  // namespace sluice
