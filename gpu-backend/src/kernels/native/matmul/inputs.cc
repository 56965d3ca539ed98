#include "inputs.h"

#include <algorithm>
#include <atomic>

#include "../formats.h"
#include "../lines.h"

namespace sluice {
namespace {

/// Fewer values are written by one thread: waking another takes as long.
constexpr int64_t serialValuesMax = 4096;

/// Order of a group of eight within a run: FP4 keeps neighbours in one byte, low nibbles come first.
constexpr int nibbleOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

/// Values below 2^-100 are far from any sum they could take part in; their runs count as this large,
/// so that a unit and its inverse stay normal numbers.
constexpr uint32_t smallestBits = 27u << 23;
constexpr uint32_t infinityBits = 0x7f800000;

/// Nearest integer of |value| < 2^22, ties to even: the last places of a float at 1.5·2^23.
SLUICE_INLINE int32_t nearest(float value) {
  return static_cast<int32_t>(bitsOfFloat(value + 12582912.0f) - 0x4b400000u);
}

/// unit·limit ≥ amax. One limb: amax ÷ 127. Three: a power of two that leaves 22 bits.
template <int limbs>
SLUICE_INLINE float runUnit(uint32_t largest) {
  const uint32_t bits = largest > smallestBits ? largest : smallestBits;
  if constexpr (limbs == 1) return floatOfBits(bits) * (1.0f / 127.0f);
  return floatOfBits((bits & infinityBits) - (21u << 23));
}

/// Whether exponents of such a unit and of a scale cannot be added blindly.
SLUICE_INLINE bool isExtreme(float unit) {
  const uint32_t bits = bitsOfFloat(unit);
  return bits < uint32_t{127 - unitExponentMax} << 23 || bits > uint32_t{127 + unitExponentMax} << 23;
}

/// One run of one row. A run of zeros has an ordinary unit; one with NaN or infinity gets NaN as its
/// unit, so that whatever it takes part in becomes NaN. Gives whether the unit is extreme.
template <int limbs>
SLUICE_INLINE bool writeRun(const float* values, int8_t* into, int32_t& start, float& unit) {
  const uint32_t largest = largestBits(values, fp4Run);
  const bool counts = largest != 0 && largest < infinityBits;
  const float step = counts ? runUnit<limbs>(largest) : 1.0f;
  const float inverse = counts ? 1.0f / step : 0.0f;
  int32_t whole[fp4Run];
  int32_t sum = 0;
  for (int i = 0; i < fp4Run; i++) {
    whole[i] = counts ? nearest(values[i] * inverse) : 0;
    sum += whole[i];
  }
  for (int limb = 0; limb < limbs; limb++) {
    for (int i = 0; i < fp4Run; i++) {
      const int32_t value = whole[i / 8 * 8 + nibbleOrder[i % 8]];
      // Balanced digits: what the lower ones borrowed, the upper ones give back.
      const int32_t digit = limb == 0 ? value : limb == 1 ? (value + 128) >> 8 : (value + 32896) >> 16;
      into[limb * fp4Run + i] = static_cast<int8_t>(static_cast<uint8_t>(digit));
    }
  }
  start = -12 * sum;
  unit = largest < infinityBits ? 0.5f * step : std::numeric_limits<float>::quiet_NaN();
  return isExtreme(unit);
}

template <int limbs>
SLUICE_INLINE void writeLimbs(const Tile& tile, int row, int64_t from, const float* block, int count) {
  bool extreme = false;
  for (int i = 0; i < count; i += fp4Run) {
    const int64_t at = (from + i) / fp4Run * tile.rows + row;
    extreme |= writeRun<limbs>(block + i, tile.limbs + at * limbs * fp4Run, tile.starts[at],
                               tile.units[at]);
  }
  // Threads share a tile, each with columns of its own.
  if (extreme) std::atomic_ref(*tile.extremes).store(1, std::memory_order_relaxed);
}

/// Words are made in a row first, where a vector holds sixteen of them: made one by one on the way to
/// their places they cost four times as much.
SLUICE_INLINE void writePairs(const Tile& tile, int row, int64_t from, const float* block, int count) {
  uint32_t halves[activationBlock];
  for (int i = 0; i < count; i++) halves[i] = toBf16(block[i]);
  uint32_t words[activationBlock / 2];
  for (int i = 0; i < count / 2; i++) words[i] = halves[2 * i] | halves[2 * i + 1] << 16;
  uint32_t* into = tile.pairs + from / 2 * tile.rows + row;
  for (int i = 0; i < count / 2; i++) into[int64_t{i} * tile.rows] = words[i];
}

/// Writes up to 128 columns of one row.
SLUICE_INLINE void writeBlock(InputKind kind, const Tile& tile, int row, int64_t from,
                              const float* block, int count) {
  switch (kind) {
    case InputKind::limbs1:
      return writeLimbs<1>(tile, row, from, block, count);
    case InputKind::limbs3:
      return writeLimbs<3>(tile, row, from, block, count);
    case InputKind::floats:
      for (int i = 0; i < count; i++) tile.floats[(from + i) * tile.rows + row] = block[i];
      return;
    case InputKind::pairs:
      return writePairs(tile, row, from, block, count);
  }
}

SLUICE_INLINE void fillBody(const Inputs& inputs, const Tile& tile, const float* const* rows,
                            int64_t from, int64_t count) {
  for (int row = 0; row < tile.rows; row++) {
    for (int64_t at = from; at < from + count; at += activationBlock) {
      const int given = static_cast<int>(std::min<int64_t>(activationBlock, inputs.width - at));
      const int padded = static_cast<int>(std::min<int64_t>(activationBlock, inputs.panelWidth - at));
      const float* block = rows[row] + at;
      float copy[activationBlock];
      if (inputs.quantise) {
        simulateFp8(block, copy, given);
        block = copy;
      } else if (padded != given) {
        for (int i = 0; i < given; i++) copy[i] = block[i];
        block = copy;
      }
      for (int i = given; i < padded; i++) copy[i] = 0;
      writeBlock(inputs.kind, tile, row, at, block, padded);
    }
  }
}

SLUICE_PER_ISA(fill, fillBody,
               (const Inputs& inputs, const Tile& tile, const float* const* rows, int64_t from,
                int64_t count),
               (inputs, tile, rows, from, count))

void ownColumns(const Inputs& inputs, const Tile& tile, int64_t from, int64_t count) {
  const int64_t at = from * tile.rows;
  const int64_t values = count * tile.rows;
  switch (inputs.kind) {
    case InputKind::limbs1:
    case InputKind::limbs3: {
      const int64_t limbs = inputs.kind == InputKind::limbs3 ? limbsMax : 1;
      ownLines(tile.limbs + at * limbs, values * limbs);
      ownLines(tile.starts + at / fp4Run, values / fp4Run * sizeof(int32_t));
      ownLines(tile.units + at / fp4Run, values / fp4Run * sizeof(float));
      return;
    }
    case InputKind::floats:
      return ownLines(tile.floats + at, values * sizeof(float));
    case InputKind::pairs:
      return ownLines(tile.pairs + at / 2, values / 2 * sizeof(uint32_t));
  }
}

void takeTile(Scratch& scratch, InputKind kind, int64_t width, Tile& tile) {
  const int64_t values = width * tile.rows;
  switch (kind) {
    case InputKind::limbs1:
    case InputKind::limbs3:
      tile.limbs = scratch.take<int8_t>(values * (kind == InputKind::limbs3 ? limbsMax : 1));
      tile.starts = scratch.take<int32_t>(values / fp4Run);
      tile.units = scratch.take<float>(values / fp4Run);
      tile.extremes = scratch.take<int32_t>(1);
      *tile.extremes = 0;
      return;
    case InputKind::floats:
      tile.floats = scratch.take<float>(values);
      return;
    case InputKind::pairs:
      tile.pairs = scratch.take<uint32_t>(values / 2);
      return;
  }
}

}  // namespace

InputKind inputKind(const Context& context, DType weight, bool quantise) {
  const bool fast = context.numerics == Numerics::fast;
  if (weight == DType::fp4) return fast ? InputKind::limbs1 : InputKind::limbs3;
  const bool pairs = kernelsFor(context.isa).pairs != nullptr;
  // Inputs rounded to FP8 are bfloat16 values as they are: their products lose nothing.
  if (weight == DType::f8e4m3 && pairs && (fast || quantise)) return InputKind::pairs;
  if (weight == DType::bf16 && pairs && fast) return InputKind::pairs;
  return InputKind::floats;
}

Inputs planInputs(Context& context, InputKind kind, bool quantise, int64_t rows, int64_t width) {
  const int64_t panelWidth = (width + 3) / 4 * 4;
  const int64_t count = (rows + tileRowsMax - 1) / tileRowsMax;
  Inputs inputs{kind, quantise, rows, width, panelWidth, context.scratch.take<Tile>(count), count};
  for (int64_t i = 0; i < count; i++) {
    Tile& tile = inputs.tiles[i];
    tile = {};
    tile.rows = static_cast<int>(std::min<int64_t>(tileRowsMax, rows - i * tileRowsMax));
    takeTile(context.scratch, kind, panelWidth, tile);
  }
  return inputs;
}

void fillTile(Isa isa, const Inputs& inputs, int64_t tile, const float* const* rows, int64_t from,
              int64_t count) {
  ownColumns(inputs, inputs.tiles[tile], from, count);
  fill(isa)(inputs, inputs.tiles[tile], rows, from, count);
}

int64_t segmentCount(const Inputs& inputs) {
  return (inputs.panelWidth + segmentWidth - 1) / segmentWidth;
}

void fillRows(Context& context, std::span<const InputRows> all) {
  int64_t values = 0;
  int64_t pieces = 0;
  for (const InputRows& each : all) {
    values += each.inputs->rows * each.inputs->width;
    pieces += each.inputs->tileCount * segmentCount(*each.inputs);
  }
  const auto fillPiece = [&](int64_t piece, int) {
    const InputRows* each = all.data();
    for (int64_t own; piece >= (own = each->inputs->tileCount * segmentCount(*each->inputs)); each++) {
      piece -= own;
    }
    const Inputs& inputs = *each->inputs;
    const int64_t tile = piece / segmentCount(inputs);
    const int64_t from = piece % segmentCount(inputs) * segmentWidth;
    const float* rows[tileRowsMax];
    for (int m = 0; m < inputs.tiles[tile].rows; m++) {
      rows[m] = each->values + (tile * tileRowsMax + m) * each->stride;
    }
    const int64_t count = std::min(segmentWidth, inputs.panelWidth - from);
    fillTile(context.isa, inputs, tile, rows, from, count);
  };
  if (values <= serialValuesMax) {
    for (int64_t piece = 0; piece < pieces; piece++) fillPiece(piece, 0);
  } else {
    context.pool.parallelFor(pieces, fillPiece);
  }
}

}  // namespace sluice
