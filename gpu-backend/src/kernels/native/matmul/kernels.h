#pragma once

#include <cstdint>

#include "../cpu.h"
#include "../op.h"

// What a matrix product is made of: panels of sixteen weight rows, tiles of up to sixteen input
// rows, and one kernel call that multiplies a panel with some tiles over the whole width.
//
// Order of summation, the same for every number of input rows, so that a row's result never
// depends on its neighbours:
//   limbs   per run of 32: an exact integer sum; runs one after the other in one float.
//   floats  per block of 128: one chain of fused multiply-adds over even columns and one over odd
//           ones; their sum, times the block's scale, onto one float.
//   pairs   the same with bfloat16 dot products of neighbours, over even and odd pairs.

namespace sluice {

constexpr int panelRows = 16;
constexpr int tileRowsMax = 16;
constexpr int blockWidth = 128;
constexpr int limbsMax = 3;
/// Units between 2^-60 and 2^60 can be combined with scales in that range by adding exponents.
constexpr int unitExponentMax = 60;

/// Sixteen rows of a weight, column groups of four bytes side by side (`panels.h`).
struct Panel {
  DType dtype;
  const uint8_t* codes;
  /// e8m0: FP4 `[width ÷ 32][16]`; FP8 one per block of 128; otherwise null.
  const uint8_t* scales;
  /// A multiple of four, of 32 for FP4.
  int64_t width;
};

/// How input rows are written down for the kernels.
enum class InputKind {
  /// One int8 and a scale per 32: against FP4, `fast`.
  limbs1,
  /// 22 bits in three int8, so that integer dot products stay exact: against FP4, `exact`.
  limbs3,
  /// fp32.
  floats,
  /// bfloat16, neighbours in one word: against FP8 and bf16.
  pairs,
};

/// Up to sixteen input rows, interleaved so that a kernel reads them front to back.
struct Tile {
  int rows;
  /// `[width ÷ 32][rows][limbs][32]`, each eight as elements 0 2 4 6 1 3 5 7.
  int8_t* limbs;
  /// `[width ÷ 32][rows]`: what a run's integer sum starts from, −12·Σ of its inputs.
  int32_t* starts;
  /// `[width ÷ 32][rows]`: a run's unit, halved because codes are doubled values.
  float* units;
  /// Not zero where some unit is NaN or beyond `unitExponentMax`.
  int32_t* extremes;
  /// `[width][rows]`.
  float* floats;
  /// `[width ÷ 2][rows]`, the even element in the lower half.
  uint32_t* pairs;
};

/// sums[row][16] for all rows of `count` tiles, one behind the other.
using PanelKernel = void (*)(const Panel& panel, const Tile* tiles, int count, float* sums);

struct KernelSet {
  PanelKernel limbs1;
  PanelKernel limbs3;
  PanelKernel floats;
  /// Null without bfloat16 instructions.
  PanelKernel pairs;
};

KernelSet portableKernels();
KernelSet avx2Kernels();
KernelSet avx512Kernels();
KernelSet avx512Bf16Kernels();
KernelSet kernelsFor(Isa isa);

}  // namespace sluice
