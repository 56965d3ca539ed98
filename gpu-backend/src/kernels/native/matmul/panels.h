#pragma once

#include <cstdint>

#include "../op.h"
#include "kernels.h"

// The layout weights are multiplied in. Sixteen consecutive rows make a panel; a panel's bytes are
// taken four at a time from each row in turn, so that one 64-byte line holds the same columns of all
// sixteen rows, and a panel is read front to back as one stream. FP8 lines are shuffled once more:
// of each four rows first columns 0 and 1, then columns 2 and 3, which is what interleaving the two
// bytes of a bfloat16 needs. FP4 scales are transposed likewise, run by run.
//
// A panel takes as many bytes as its rows did, so packing happens in place, and a slice of whole
// panels is again a packed matrix. Rows behind the last whole panel stay as they are.

namespace sluice {

/// A weight, or some rows of one.
struct Matrix {
  DType dtype;
  const uint8_t* codes;
  const uint8_t* scales;
  /// Columns, and rows of the whole matrix that `codes` and `scales` belong to.
  int64_t width;
  int64_t totalRows;
  /// The rows meant.
  int64_t firstRow;
  int64_t rows;
  bool packed;
};

/// A weight `[rows, width]`.
Matrix matrixOf(const Weight& weight);
/// Element `index` of a stack `[count, rows, width]`.
Matrix stackMatrix(const Weight& weight, int64_t index);
/// `count` rows from `first` on; whole panels where the matrix is packed, or its last rows.
Matrix rowsOf(const Matrix& matrix, int64_t first, int64_t count);
/// How many of those rows may be one product: a panel has one FP8 scale a block, so panels that begin
/// at odd rows must end with the tile of 128 rows that they begin in.
int64_t rowsTogether(const Matrix& matrix, int64_t first, int64_t count);

/// Bytes of one row's codes.
int64_t rowBytes(const Matrix& matrix);
/// Whether rows can be packed in place: panels hold columns in groups of four bytes.
bool packable(DType dtype, int64_t width);
/// Width of a panel: that of the matrix, filled up with zeros to a multiple of four.
int64_t panelWidth(const Matrix& matrix);
/// Bytes `panelAt` needs to write down one panel.
int64_t panelBytesMax(const Matrix& matrix);

/// The panel from `row` on (a multiple of sixteen within the rows meant): the packed one if there
/// is, else one made in `scratch`, with zeros for rows and columns that are not there.
Panel panelAt(const Matrix& matrix, int64_t row, uint8_t* scratch);

/// Packs sixteen rows in place, through `scratch` of as many bytes.
void packPanel(DType dtype, int64_t width, uint8_t* codes, uint8_t* scales, uint8_t* scratch);

}  // namespace sluice
