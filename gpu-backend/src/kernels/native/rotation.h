#pragma once

#include <cstdint>

#include "batch.h"
#include "cpu.h"
#include "op.h"

namespace sluice {

/// Cosines and sines of a batch's angles. An angle is the fp32 product of position and frequency,
/// by definition; of that the sine and cosine are taken in double with full range reduction.
class Rotations {
 public:
  /// For every row its own position.
  Rotations(Context& context, const BatchRows& rows, const Tensor& frequencies);

  int64_t pairs() const { return pairs_; }
  /// `pairs()` cosines, then as many sines.
  const double* row(int64_t row) const { return table_ + 2 * pairs_ * row; }

 private:
  const double* table_;
  int64_t pairs_;
};

/// Cosines, then sines of position·frequency.
void fillAngles(const float* frequencies, int64_t pairs, int64_t position, double* into);

/// Turns the pairs (2i, 2i + 1) of `values` by the angles of `table`; `backwards` by their negatives.
/// In double, rounded once: both products of two fp32 would be exact, those with a cosine nearly.
SLUICE_INLINE void rotatePairs(float* values, const double* table, int64_t pairs, bool backwards) {
  const double sign = backwards ? -1.0 : 1.0;
  for (int64_t i = 0; i < pairs; i++) {
    const double a = values[2 * i];
    const double b = values[2 * i + 1];
    const double cosine = table[i];
    const double sine = sign * table[pairs + i];
    values[2 * i] = static_cast<float>(a * cosine - b * sine);
    values[2 * i + 1] = static_cast<float>(a * sine + b * cosine);
  }
}

}  // namespace sluice
