#pragma once

#include <cstdint>
#include <span>

#include "../op.h"
#include "kernels.h"

namespace sluice {

/// Input rows of a matrix product, written down once in the form its kernel reads.
struct Inputs {
  InputKind kind;
  /// Round to FP8 per 128 first.
  bool quantise;
  int64_t rows;
  /// Of the rows given, and filled up with zeros to whole column groups.
  int64_t width;
  int64_t panelWidth;
  Tile* tiles;
  int64_t tileCount;
};

/// The form that `weight`'s kernels read. `quantise` counts for FP8 and FP4 weights only.
InputKind inputKind(const Context& context, DType weight, bool quantise);

/// Takes room for the tiles; `fillTile` writes them.
Inputs planInputs(Context& context, InputKind kind, bool quantise, int64_t rows, int64_t width);

/// Writes columns `from … from + count − 1` of one tile: `rows[m]` is the tile's m-th input row.
/// `from` and, except at the end, `count` are multiples of 128.
void fillTile(Isa isa, const Inputs& inputs, int64_t tile, const float* const* rows, int64_t from,
              int64_t count);

/// Inputs and the rows they are made of, `stride` values apart.
struct InputRows {
  const Inputs* inputs;
  const float* values;
  int64_t stride;
};

/// Fills all tiles of several inputs in one pass of the pool.
void fillRows(Context& context, std::span<const InputRows> all);

/// Columns that are written as one piece of work: tiles × `segmentCount` are independent.
constexpr int64_t segmentWidth = 1024;
int64_t segmentCount(const Inputs& inputs);

}  // namespace sluice
