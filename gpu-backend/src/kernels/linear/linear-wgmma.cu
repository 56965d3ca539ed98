// linear for many rows on Hopper: one FP8 weight against inputs rounded to FP8, code by code on the
// tensor cores. `linear.cu` is its twin, which takes every weight everywhere.
//
// Inputs were rounded before (`cuda/round-rows.cu`). A block makes 128 rows by 128 outputs, one tile of
// the weight's scales high: four warps take 64 rows each. After every 128 columns sums leave the tensor
// cores for fp32, where the row's scale and the tile's go in. A row's bits depend on no other row.

#include "../cuda/tile-ring.h"

namespace sluice {
namespace {

constexpr int stages = 4;

struct LinearWgmmaArgs {
  /// Codes of the inputs `[rows, width]` and of the weight `[outputs, width]`.
  TensorMap inputs;
  TensorMap weight;
  /// `[width ÷ 128, scaleRows]`
  const float* inputScales;
  /// e8m0 `[outputs ÷ 128, width ÷ 128]`
  const uint8_t* weightScales;
  float* output;
  int rows;
  int outputs;
  int units;
  int scaleRows;
};

#if SLUICE_HOPPER

constexpr uint32_t tileSize = tileRows * tileBytes;
using Ring = TileRing<stages, 2 * tileSize>;

SLUICE_DEVICE float scaleOf(const LinearWgmmaArgs& args, int unit, int row) {
  return row < args.rows ? args.inputScales[int64_t{unit} * args.scaleRows + row] : 0;
}

/// What the warps take, each 16 rows; `total` lies as products do.
SLUICE_DEVICE void takeTiles(const LinearWgmmaArgs& args, const Ring& ring, int row,
                             float (&total)[64]) {
  const uint32_t ownRows = static_cast<uint32_t>(warpOf() / 4) * 64 * tileBytes;
  const uint8_t* const weightScales = args.weightScales + int64_t{blockIdx.x} * args.units;
#pragma unroll
  for (int i = 0; i < 64; i++) total[i] = 0;
  for (int unit = 0; unit < args.units; unit++) {
    const float tile = fromE8m0(weightScales[unit]);
    const float scales[2] = {scaleOf(args, unit, row) * tile, scaleOf(args, unit, row + 8) * tile};
    ring.take(unit);
    const uint64_t a = tileDescriptor(ring.tiles(unit) + ownRows);
    const uint64_t b = tileDescriptor(ring.tiles(unit) + tileSize);
    float sums[64];
    fenceProducts();
#pragma unroll
    for (int k = 0; k < 4; k++) beginProduct(sums, a + 2 * k, b + 2 * k, k > 0);
    commitProducts();
    awaitProducts(sums);
    ring.release(unit);
#pragma unroll
    for (int i = 0; i < 64; i++) total[i] += sums[i] * scales[i / 2 % 2];
  }
}

#endif

}  // namespace

SLUICE_KERNEL(linear_wgmma, LinearWgmmaArgs, 288, 1) {
#if SLUICE_HOPPER
  SLUICE_DYNAMIC_SHARED(shared);
  const Ring ring = {firstTile(shared)};
  const int firstRow = static_cast<int>(blockIdx.y) * tileRows;
  const int firstOutput = static_cast<int>(blockIdx.x) * tileRows;
  ring.begin();
  if (warpOf() == takingWarps) {
    if (laneOf() != 0) return;
    ring.fill(args.units, [&](int unit, uint32_t into, PhaseBarrier barrier) {
      copyTile(into, args.inputs, unit * tileBytes, firstRow, barrier);
      copyTile(into + tileSize, args.weight, unit * tileBytes, firstOutput, barrier);
    });
    return;
  }
  const int row = firstRow + 16 * warpOf() + laneOf() / 4;
  float total[64];
  takeTiles(args, ring, row, total);
#pragma unroll
  for (int i = 0; i < 64; i++) {
    const int output = firstOutput + i / 4 * 8 + laneOf() % 4 * 2 + i % 2;
    const int at = row + i / 2 % 2 * 8;
    if (at < args.rows && output < args.outputs) {
      args.output[int64_t{at} * args.outputs + output] = total[i];
    }
  }
#endif
}

}  // namespace sluice
