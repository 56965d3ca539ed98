#pragma once

#include <cstdint>

#include "../native/cpu.h"
#include "../native/formats.h"

// The k largest of many scores, equal ones by their index, in ascending order of index. Scores are
// kept as integers of the same order, so that the k-th largest can be found bit by bit, counting:
// passes without a branch over memory that lies in a cache.

namespace sluice {

/// Integers in the order of the scores. 0 and −0 are one; NaN comes before minus infinity.
SLUICE_INLINE uint32_t orderedBits(float score) {
  const uint32_t bits = bitsOfFloat(score + 0.0f);
  const uint32_t ordered = bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0u : ordered;
}

SLUICE_INLINE int64_t countFrom(const uint32_t* scores, int64_t count, uint32_t least) {
  int64_t found = 0;
  // Short sums in the scores' own width keep the loop's vectors whole.
  constexpr int64_t piece = 4096;
  for (int64_t from = 0; from < count; from += piece) {
    const int64_t end = from + piece < count ? from + piece : count;
    uint32_t some = 0;
    for (int64_t i = from; i < end; i++) some += scores[i] >= least ? 1u : 0u;
    found += some;
  }
  return found;
}

/// The largest value that at least `k` scores reach.
SLUICE_INLINE uint32_t kthLargest(const uint32_t* scores, int64_t count, int64_t k) {
  uint32_t least = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    const int64_t found = countFrom(scores, count, least | bit);
    if (found < k) continue;
    least |= bit;
    // No lower bit can tell these k apart from the rest any better.
    if (found == k) break;
  }
  return least;
}

/// Writes the indices of the `k` < `count` largest.
SLUICE_INLINE void pickLargestBody(const uint32_t* scores, int64_t count, int64_t k,
                                   int32_t* picks) {
  const uint32_t least = kthLargest(scores, count, k);
  int64_t equal = k - (least == 0xffffffffu ? 0 : countFrom(scores, count, least + 1));
  constexpr int64_t piece = 32;
  for (int64_t from = 0; from < count; from += piece) {
    const int64_t end = from + piece < count ? from + piece : count;
    uint32_t any = 0;
    for (int64_t i = from; i < end; i++) any |= scores[i] >= least ? 1u : 0u;
    if (any == 0) continue;
    for (int64_t i = from; i < end; i++) {
      if (scores[i] < least || (scores[i] == least && equal-- <= 0)) continue;
      *picks++ = static_cast<int32_t>(i);
    }
  }
}

SLUICE_PER_ISA(pickLargest, pickLargestBody,
               (const uint32_t* scores, int64_t count, int64_t k, int32_t* picks),
               (scores, count, k, picks))

}  // namespace sluice
