#include "panels.h"

#include <algorithm>
#include <cstring>

#include "../formats.h"

namespace sluice {
namespace {

int64_t ceilDiv(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

/// `rows[16][words]` of four bytes → `[words][16]`.
void transposeWords(const uint8_t* rows, int64_t rowStride, int64_t words, uint8_t* into) {
  for (int64_t word = 0; word < words; word++) {
    for (int row = 0; row < panelRows; row++) {
      std::memcpy(into + (word * panelRows + row) * 4, rows + row * rowStride + word * 4, 4);
    }
  }
}

/// In every four words a b c d: the lower halves first, then the upper ones.
void gatherHalves(uint8_t* codes, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 16) {
    uint16_t halves[8];
    std::memcpy(halves, codes + at, 16);
    const uint16_t gathered[8] = {halves[0], halves[2], halves[4], halves[6],
                                  halves[1], halves[3], halves[5], halves[7]};
    std::memcpy(codes + at, gathered, 16);
  }
}

void transposeBytes(const uint8_t* rows, int64_t rowStride, int64_t count, uint8_t* into) {
  for (int64_t i = 0; i < count; i++) {
    for (int row = 0; row < panelRows; row++) into[i * panelRows + row] = rows[row * rowStride + i];
  }
}

/// Packs sixteen rows of `codes` (and FP4 scales) to `into` (and `scalesInto`).
void packTo(DType dtype, int64_t width, const uint8_t* codes, uint8_t* into, const uint8_t* scales,
            uint8_t* scalesInto) {
  const int64_t bytes = width * bitsOf(dtype) / 8;
  transposeWords(codes, bytes, bytes / 4, into);
  if (dtype == DType::f8e4m3) gatherHalves(into, bytes * panelRows);
  if (dtype == DType::fp4) transposeBytes(scales, width / fp4Run, width / fp4Run, scalesInto);
}

/// Copies what there is of sixteen rows from `row` on, zero elsewhere. A scale of 0 is 2^-127: its
/// codes are zero, so it does not matter.
void gatherRows(const Matrix& matrix, int64_t row, int64_t count, uint8_t* codes, uint8_t* scales) {
  const int64_t from = rowBytes(matrix);
  const int64_t to = panelWidth(matrix) * bitsOf(matrix.dtype) / 8;
  std::memset(codes, 0, to * panelRows);
  for (int64_t i = 0; i < count; i++) {
    std::memcpy(codes + i * to, matrix.codes + (row + i) * from, from);
  }
  if (matrix.dtype != DType::fp4) return;
  const int64_t runs = matrix.width / fp4Run;
  std::memset(scales, 0, runs * panelRows);
  std::memcpy(scales, matrix.scales + row * runs, count * runs);
}

const uint8_t* panelScales(const Matrix& matrix, int64_t row) {
  switch (matrix.dtype) {
    case DType::fp4:
      return matrix.scales + row * (matrix.width / fp4Run);
    case DType::f8e4m3:
      return matrix.scales + row / fp8Tile * ceilDiv(matrix.width, fp8Tile);
    default:
      return nullptr;
  }
}

}  // namespace

Matrix matrixOf(const Weight& weight) {
  const Tensor& codes = weight.codes;
  return {codes.dtype,    codes.as<const uint8_t>(), weight.scales, codes.shape[1],
          codes.shape[0], 0,                         codes.shape[0], weight.packed};
}

Matrix stackMatrix(const Weight& weight, int64_t index) {
  const int64_t rows = weight.codes.shape[1];
  const int64_t width = weight.codes.shape[2];
  const DType dtype = weight.codes.dtype;
  const int64_t scalesEach = dtype == DType::fp4
                                 ? rows * (width / fp4Run)
                                 : ceilDiv(rows, fp8Tile) * ceilDiv(width, fp8Tile);
  const uint8_t* codes = weight.codes.as<const uint8_t>() + index * rows * width * bitsOf(dtype) / 8;
  const uint8_t* scales = weight.scales == nullptr ? nullptr : weight.scales + index * scalesEach;
  return {dtype, codes, scales, width, rows, 0, rows, weight.packed};
}

Matrix rowsOf(const Matrix& matrix, int64_t first, int64_t count) {
  const bool atEnd = first + count == matrix.rows;
  if (matrix.packed && (first % panelRows != 0 || (count % panelRows != 0 && !atEnd))) {
    throw OpError("unsupported_op", "rows " + std::to_string(first) + "…" +
                                        std::to_string(first + count) +
                                        " of a packed weight are no whole panels of 16");
  }
  Matrix part = matrix;
  part.firstRow = matrix.firstRow + first;
  part.rows = count;
  return part;
}

int64_t rowsTogether(const Matrix& matrix, int64_t first, int64_t count) {
  const int64_t row = matrix.firstRow + first;
  if (matrix.dtype != DType::f8e4m3 || row % panelRows == 0) return count;
  return std::min(count, fp8Tile - row % fp8Tile);
}

int64_t rowBytes(const Matrix& matrix) { return matrix.width * bitsOf(matrix.dtype) / 8; }

bool packable(DType dtype, int64_t width) {
  return dtype == DType::fp4 ? width % fp4Run == 0 : width % 4 == 0;
}

int64_t panelWidth(const Matrix& matrix) { return ceilDiv(matrix.width, 4) * 4; }

int64_t panelBytesMax(const Matrix& matrix) {
  const int64_t codes = panelWidth(matrix) * bitsOf(matrix.dtype) / 8 * panelRows;
  const int64_t scales = matrix.dtype == DType::fp4 ? matrix.width / fp4Run * panelRows : 0;
  return 2 * (codes + scales);
}

Panel panelAt(const Matrix& matrix, int64_t row, uint8_t* scratch) {
  const int64_t at = matrix.firstRow + row;
  const int64_t width = panelWidth(matrix);
  const bool whole = at % panelRows == 0 && at + panelRows <= matrix.totalRows;
  if (matrix.packed && whole) {
    return {matrix.dtype, matrix.codes + at * rowBytes(matrix), panelScales(matrix, at), width};
  }
  const int64_t codesBytes = width * bitsOf(matrix.dtype) / 8 * panelRows;
  const int64_t scalesBytes = matrix.dtype == DType::fp4 ? width / fp4Run * panelRows : 0;
  uint8_t* rows = scratch + codesBytes + scalesBytes;
  const int64_t count = std::min<int64_t>(panelRows, matrix.rows - row);
  gatherRows(matrix, at, count, rows, rows + codesBytes);
  packTo(matrix.dtype, width, rows, scratch, rows + codesBytes, scratch + codesBytes);
  const uint8_t* scales =
      matrix.dtype == DType::fp4 ? scratch + codesBytes : panelScales(matrix, at);
  return {matrix.dtype, scratch, scales, width};
}

void packPanel(DType dtype, int64_t width, uint8_t* codes, uint8_t* scales, uint8_t* scratch) {
  const int64_t bytes = width * bitsOf(dtype) / 8 * panelRows;
  const int64_t scaleBytes = dtype == DType::fp4 ? width / fp4Run * panelRows : 0;
  std::memcpy(scratch, codes, bytes);
  if (scaleBytes > 0) std::memcpy(scratch + bytes, scales, scaleBytes);
  packTo(dtype, width, scratch, codes, scratch + bytes, scales);
}

}  // namespace sluice
