// A product of tiles on sm_90's tensor cores, done right or with one mistake planted: proof that the host
// build sees such mistakes (`simt.test.ts`).

#include "../tile-ring.h"

namespace sluice {
namespace {

enum class Fault : int {
  none,
  notFenced,
  notAwaited,
  touched,
  wrongSwizzle,
  phaseNotFlipped,
  barriersNotKnown,
  noMeeting,
  notEmptied,
  releasedEarly,
  neverReleased,
  bytesMissing,
  laneMissing,
};

struct ProductArgs {
  TensorMap a;
  TensorMap b;
  float* output;
  int units;
  Fault fault;
};

constexpr int stages = 2;
constexpr uint32_t tileSize = tileRows * tileBytes;
/// Its places for tiles and barriers; what is done with them stands below.
using Ring = TileRing<stages, 2 * tileSize>;

SLUICE_DEVICE void askForTiles(const ProductArgs& args, const Ring& ring) {
  for (int unit = 0; unit < args.units; unit++) {
    const PhaseBarrier filled = ring.filled(unit);
    if (unit >= stages && args.fault != Fault::notEmptied) {
      ring.emptied(unit).wait(Ring::turn(unit - stages));
    }
    const uint32_t missing = args.fault == Fault::bytesMissing ? tileBytes : 0;
    filled.arriveExpecting(2 * tileSize - missing);
    copyTile(ring.tiles(unit), args.a, unit * tileBytes, 0, filled);
    copyTile(ring.tiles(unit) + tileSize, args.b, unit * tileBytes, 0, filled);
  }
}

SLUICE_DEVICE uint64_t factorAt(uint32_t address, Fault fault) {
  // 64 bytes a row instead of 128.
  const uint64_t wrong = fault == Fault::wrongSwizzle ? uint64_t{3} << 62 : 0;
  return tileDescriptor(address) ^ wrong;
}

SLUICE_DEVICE void addUnit(const ProductArgs& args, const Ring& ring, int unit, float (&total)[64]) {
  const uint64_t a = factorAt(ring.tiles(unit), args.fault);
  const uint64_t b = factorAt(ring.tiles(unit) + tileSize, args.fault);
  float sums[64];
  if (args.fault != Fault::notFenced) fenceProducts();
  for (int k = 0; k < 4; k++) beginProduct(sums, a + 2 * k, b + 2 * k, k > 0);
  commitProducts();
  if (args.fault == Fault::touched) sums[0] = 0;
  if (args.fault == Fault::releasedEarly && laneOf() == 0) ring.emptied(unit).arrive();
  for (int i = 0; i < 64 && args.fault == Fault::notAwaited; i++) total[i] += sums[i];
  awaitProducts(sums);
  for (int i = 0; i < 64 && args.fault != Fault::notAwaited; i++) total[i] += sums[i];
  const bool released = args.fault == Fault::releasedEarly || args.fault == Fault::neverReleased;
  if (!released && laneOf() == 0) ring.emptied(unit).arrive();
}

}  // namespace

/// output[64][128] = A·Bᵀ of whole numbers; four warps take tiles, the fifth asks for them.
SLUICE_KERNEL(planted_product, ProductArgs, 160, 1) {
  SLUICE_DYNAMIC_SHARED(shared);
  const Ring ring = {firstTile(shared)};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < stages; stage++) {
      ring.filled(stage).begin(1);
      ring.emptied(stage).begin(4);
    }
    if (args.fault != Fault::barriersNotKnown) fencePhaseBarriers();
  }
  if (args.fault != Fault::noMeeting) __syncthreads();
  if (warpOf() == 4) {
    if (laneOf() == 0) askForTiles(args, ring);
    return;
  }
  float total[64] = {};
  for (int unit = 0; unit < args.units; unit++) {
    const bool flipped = args.fault != Fault::phaseNotFlipped;
    ring.filled(unit).wait(flipped ? Ring::turn(unit) : 0);
    if (args.fault == Fault::laneMissing && threadIdx.x == 40) return;
    addUnit(args, ring, unit, total);
  }
  for (int i = 0; i < 64; i++) {
    const int row = 16 * warpOf() + laneOf() / 4 + 8 * (i / 2 % 2);
    args.output[row * 128 + i / 4 * 8 + laneOf() % 4 * 2 + i % 2] = total[i];
  }
}

}  // namespace sluice
