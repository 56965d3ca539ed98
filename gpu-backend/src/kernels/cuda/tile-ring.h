#pragma once

#include "hopper.h"

// Tiles on their way from memory to tensor cores: one thread asks the copy engine for a stage of them
// after the other, as many ahead as there is room, and eight warps take them in the same order. A stage
// is filled again once all eight have said that they are through with it.

#if SLUICE_HOPPER

namespace sluice {

constexpr int takingWarps = 8;
/// Of a block that takes tiles: the eight warps, and one that asks for them.
constexpr int ringThreads = 32 * (takingWarps + 1);

/// `stages` of `stageBytes`, a multiple of `tileAlignment`, from an address that is aligned so.
template <int stages, uint32_t stageBytes>
struct TileRing {
  static constexpr uint32_t bytes = stages * (stageBytes + 16);
  uint32_t base;

  SLUICE_DEVICE uint32_t tiles(int step) const {
    return base + static_cast<uint32_t>(step % stages) * stageBytes;
  }
  SLUICE_DEVICE PhaseBarrier filled(int step) const {
    return {base + stages * stageBytes + 16 * static_cast<uint32_t>(step % stages)};
  }
  SLUICE_DEVICE PhaseBarrier emptied(int step) const { return {filled(step).address + 8}; }
  SLUICE_DEVICE static uint32_t turn(int step) { return static_cast<uint32_t>(step / stages) & 1; }

  /// By the whole block, before anything else.
  SLUICE_DEVICE void begin() const {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < stages; stage++) {
        filled(stage).begin(1);
        emptied(stage).begin(takingWarps);
      }
      fencePhaseBarriers();
    }
    __syncthreads();
  }

  /// By one thread. `copy(step, into, barrier)` asks for the stage's bytes, all of them.
  template <class CopyStage>
  SLUICE_DEVICE void fill(int steps, CopyStage copy) const {
    for (int step = 0; step < steps; step++) {
      if (step >= stages) emptied(step).wait(turn(step - stages));
      filled(step).arriveExpecting(stageBytes);
      copy(step, tiles(step), filled(step));
    }
  }

  SLUICE_DEVICE void take(int step) const { filled(step).wait(turn(step)); }
  /// By every taking warp, once its products are done.
  SLUICE_DEVICE void release(int step) const {
    if (laneOf() == 0) emptied(step).arrive();
  }
};

/// The first place for tiles in a block's shared memory, which has `tileAlignment` bytes to spare.
SLUICE_DEVICE uint32_t firstTile(const void* shared) {
  return (sharedAddress(shared) + tileAlignment - 1) & ~(tileAlignment - 1);
}

}  // namespace sluice

#endif
