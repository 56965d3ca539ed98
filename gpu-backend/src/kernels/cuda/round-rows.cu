// Inputs of products at FP8: what `stageInput` of `matrix.h` does on its way, as codes and scales that a
// copy engine can bring to the tensor cores.

#include "formats.h"
#include "warp.h"

namespace sluice {
namespace {

struct RoundRowsArgs {
  /// `[…, width]`
  const float* input;
  /// Null: every row comes from the same row of the input. Else from row `from[row] ÷ share`, and there
  /// are only `*count`.
  const int* from;
  const int* count;
  /// e4m3 `[rows, width]`, and what they are multiplied by, `[width ÷ 128, scaleRows]`.
  uint8_t* codes;
  float* scales;
  int rows;
  int width;
  int scaleRows;
  /// Floats from one row of the input to the next.
  int inputStride;
  int share;
  /// Whether columns lie as FP4 weights read from registers meet them (`columnPlace`).
  int exchanged;
};

/// Where four columns of 128 lie, those of `lane`. A lane t of four reads 32 columns of such a weight's row,
/// and product s takes eight of them: four at 4t of its 32 places, and four at 16 + 4t.
SLUICE_DEVICE int columnPlace(int lane, bool exchanged) {
  if (!exchanged) return 4 * lane;
  return lane % 8 / 2 * 32 + lane % 2 * 16 + lane / 8 * 4;
}

}  // namespace

/// A warp rounds 128 values of a row.
SLUICE_KERNEL(round_rows, RoundRowsArgs, 256, 4) {
  const int row = static_cast<int>(blockIdx.y) * 8 + warpOf();
  const int unit = static_cast<int>(blockIdx.x);
  if (row >= args.rows) return;
  if (args.count != nullptr && row >= *args.count) return;
  const int from = args.from == nullptr ? row : args.from[row] / args.share;
  const int first = unit * activationBlock;
  const float* const at = args.input + int64_t{from} * args.inputStride + first + 4 * laneOf();
  const float4 four = *reinterpret_cast<const float4*>(at);
  const float x[4] = {four.x, four.y, four.z, four.w};
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t bits = magnitudeBits(x[i]);
    largest = bits > largest ? bits : largest;
  }
  const float scale = fp8Scale(warpMaxBits(largest));
  const float inverse = 1.0f / scale;
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) word |= codeOfE4m3(roundE4m3(x[i] * inverse)) << (8 * i);
  uint8_t* const into = args.codes + int64_t{row} * args.width + first;
  *reinterpret_cast<uint32_t*>(into + columnPlace(laneOf(), args.exchanged != 0)) = word;
  if (laneOf() == 0) args.scales[int64_t{unit} * args.scaleRows + row] = scale;
}

}  // namespace sluice
