#pragma once

#include <cstdint>

#include "op.h"

// Dot products of fp32 rows with fp32 or bfloat16 rows, in double: for the few matrices whose errors
// go on through every later layer (the stream mixes) or decide which experts a token gets (the gate).
//
// A product of two fp32 values is exact in double, so fused and unfused variants give the same bits.
// Column i goes to chain i mod 8; the eight chains are added as ((0 + 4) + (2 + 6)) + ((1 + 5) +
// (3 + 7)). The order is the same for every instruction set, number of rows and number of outputs,
// and so are the bits. Error: n ÷ 8 additions a chain and three more, (n ÷ 8 + 3)·2^-53·Σ|x·w|; for
// the 28,672 columns of Pro's streams 4e-13 of Σ|x·w|, against 6e-8 of the sum for its rounding to
// fp32 afterwards.

namespace sluice {

/// Neighbouring rows of a matrix, f32 or bf16.
struct MatrixRows {
  DType dtype;
  const std::byte* data;
  int64_t width;
  int64_t count;
};

/// `count` rows of a tensor `[rows, width]` from row `first` on; all of them without `first`.
MatrixRows matrixRows(const Tensor& matrix, int64_t first, int64_t count);
MatrixRows matrixRows(const Tensor& matrix);

/// Columns `from … from + count − 1` of one row, as fp32.
void widenRow(Isa isa, const MatrixRows& matrix, int64_t row, int64_t from, int64_t count,
              float* into);

/// sums[r·sumsStride + o] = Σ_i inputs[r][i]·weights[o][i] for `count` inputs and all weight rows.
void dots(Isa isa, const float* const* inputs, int64_t count, const MatrixRows& weights,
          double* sums, int64_t sumsStride);

/// Σ x².
double squareSum(Isa isa, const float* values, int64_t count);

/// The same, one pass of the pool over inputs and weight rows. With `squares` each input's sums are
/// followed by its Σ x².
void dotsInParallel(Context& context, const float* const* inputs, int64_t count,
                    const MatrixRows& weights, bool squares, double* sums, int64_t sumsStride);

}  // namespace sluice
